//! The OpenMP team that torch computes with, for work of ours.
//!
//! After each of torch's operations its threads spin for some milliseconds, waiting for the next one. Threads of our own
//! would share the processor's cores with them; on the same team, the spinning threads are those that do the work.

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

type Body = extern "C" fn(*mut c_void);
/// `GOMP_parallel(body, data, num_threads, flags)`: runs `body(data)` on each thread and returns after the last of them.
type Parallel = unsafe extern "C" fn(Body, *mut c_void, c_uint, c_uint);
/// `omp_get_max_threads()`.
type MostThreads = unsafe extern "C" fn() -> c_int;

/// An OpenMP runtime that is loaded in this process.
pub struct Team {
    parallel: Parallel,
    most_threads: MostThreads,
}

/// What the threads of one parallel region share.
struct Region<'a> {
    body: &'a (dyn Fn() + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Team {
    /// torch's, looked for once; `None` where torch is not loaded or computes without the GNU interface of OpenMP.
    pub fn of_torch() -> Option<&'static Self> {
        static TEAM: OnceLock<Option<Team>> = OnceLock::new();
        TEAM.get_or_init(find).as_ref()
    }

    /// The number of threads that torch computes with, when the calling thread asks.
    pub fn most_threads(&self) -> usize {
        // SAFETY: the function takes nothing and may be called from any thread.
        usize::try_from(unsafe { (self.most_threads)() }).unwrap_or(0)
    }

    /// Calls `body` on `threads` threads, the calling one among them, or on fewer, as the runtime decides. A panic in
    /// any of them goes on in the calling thread once all have ended.
    pub fn run(&self, threads: usize, body: &(dyn Fn() + Sync)) {
        let region = Region { body, panic: Mutex::new(None) };
        // SAFETY: the region is shared between threads (`Sync`) and lives until the call returns, before which all of
        // them have left `enter`, from where no panic escapes.
        unsafe { (self.parallel)(enter, ptr::from_ref(&region).cast_mut().cast(), threads as c_uint, 0) };
        if let Some(panic) = region.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}

extern "C" fn enter(region: *mut c_void) {
    // SAFETY: `run` passes a region that outlives this call.
    let region = unsafe { &*region.cast_const().cast::<Region<'_>>() };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(region.body)) {
        region.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    }
}

/// The runtime whose functions torch calls: the process-wide ones, else those of the libraries torch was linked to.
fn find() -> Option<Team> {
    let torch = loaded(c"libtorch_cpu.so")?;
    // SAFETY: the path is a C string; the library is not loaded anew, and never unloaded, for the handle stays open.
    let torch = unsafe { libc::dlopen(torch.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if torch.is_null() {
        return None;
    }
    [libc::RTLD_DEFAULT, torch].into_iter().find_map(|library| {
        let parallel = symbol(library, c"GOMP_parallel")?;
        let most_threads = symbol(library, c"omp_get_max_threads")?;
        // SAFETY: the functions of these names have these types in every OpenMP runtime that has them.
        Some(unsafe {
            Team {
                parallel: std::mem::transmute::<*mut c_void, Parallel>(parallel),
                most_threads: std::mem::transmute::<*mut c_void, MostThreads>(most_threads),
            }
        })
    })
}

fn symbol(library: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the handle is open or `RTLD_DEFAULT`, the name a C string.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// Path of the loaded library with the file name `name`.
fn loaded(name: &CStr) -> Option<CString> {
    struct Search<'a> {
        name: &'a [u8],
        found: Option<CString>,
    }
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: libc::size_t, search: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid record and the pointer that it was given, to a search no one else uses.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search<'_>>()) };
        let path: *const c_char = info.dlpi_name;
        if path.is_null() {
            return 0;
        }
        // SAFETY: the loader's names are C strings.
        let path = unsafe { CStr::from_ptr(path) };
        if path.to_bytes().rsplit(|&byte| byte == b'/').next() == Some(search.name) {
            search.found = Some(path.to_owned());
            return 1;
        }
        0
    }
    let mut search = Search { name: name.to_bytes(), found: None };
    // SAFETY: `search` outlives the call, and `visit` takes it for what it is.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A runtime that starts a thread for every call.
    unsafe extern "C" fn parallel(body: Body, data: *mut c_void, threads: c_uint, _: c_uint) {
        let data = data as usize;
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(move || body(data as *mut c_void));
            }
        });
    }

    unsafe extern "C" fn most_threads() -> c_int {
        3
    }

    const TEAM: Team = Team { parallel, most_threads };

    #[test]
    fn the_body_runs_on_every_thread() {
        let calls = AtomicUsize::new(0);
        TEAM.run(TEAM.most_threads(), &|| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.into_inner(), 3);
    }

    #[test]
    fn a_panic_goes_on_in_the_caller_after_all_threads() {
        let calls = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            TEAM.run(3, &|| {
                assert!(calls.fetch_add(1, Ordering::Relaxed) != 1, "the second one");
            });
        }));
        assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"the second one"));
        assert_eq!(calls.into_inner(), 3);
    }

    #[test]
    fn only_loaded_libraries_are_found() {
        assert!(loaded(c"libtorch_cpu.so").is_none());
        let libraries = [c"libc.so.6", c"libc.so", c"ld-musl-x86_64.so.1", c"ld-musl-aarch64.so.1"];
        assert!(cfg!(target_env = "musl") || libraries.into_iter().any(|name| loaded(name).is_some()));
    }
}

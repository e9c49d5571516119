//! What the processor is asked for beside the data path and the losses: the threads that share the work, memory in large
//! pages, dropout's masks, and, where there are instructions for them, the linear layers' matrix products.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
pub mod dropout;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod matmul;
pub mod memory;
#[cfg(target_os = "linux")]
mod openmp;
pub mod threads;

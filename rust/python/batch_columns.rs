//! Arrow columns of token ids as [`Rows`], without copying them.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Int32Type, Int64Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, GenericListArray, OffsetSizeTrait, PrimitiveArray};
use arrow_buffer::ScalarBuffer;
use arrow_schema::DataType;

use crate::batch_rows::{Buffer, Chunk, Ids, Offsets, Rows};
use crate::error::{Error, Result};

/// The rows of a column of lists, or those of them that `selected` names.
pub fn rows_of(chunks: &[ArrayRef], selected: Option<&[ArrayRef]>) -> Result<Rows> {
    let mut first = 0;
    let mut stored = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        stored.push(match chunk.data_type() {
            DataType::List(_) => {
                list_chunk(chunk.as_list::<i32>(), first, |offsets| Offsets::Narrow(Box::new(offsets)))
            }
            DataType::LargeList(_) => {
                list_chunk(chunk.as_list::<i64>(), first, |offsets| Offsets::Wide(Box::new(offsets)))
            }
            other => Err(not_lists(other)),
        }?);
        first += chunk.len();
    }
    Rows::new(stored, selected.map(numbers).transpose()?)
}

fn not_lists(found: &DataType) -> Error {
    Error::Type(format!(
        "the column of token ids has the type {found}, not list or large_list of uint16, uint32, int32 or int64; cast it, for example with column.cast(pyarrow.list_(pyarrow.int32()))"
    ))
}

fn list_chunk<O: OffsetSizeTrait>(
    list: &GenericListArray<O>,
    first: usize,
    offsets_of: impl Fn(ScalarBuffer<O>) -> Offsets,
) -> Result<Chunk> {
    if let Some(row) = list.nulls().and_then(|nulls| nulls.iter().position(|valid| !valid)) {
        return Err(Error::invalid(format!("row {} is null; drop null rows before batching", first + row)));
    }
    let offsets = list.offsets();
    let (start, end) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    let values = list.values();
    if let Some(nulls) = values.slice(start, end - start).nulls()
        && let Some(place) = nulls.iter().position(|valid| !valid)
    {
        let row = offsets.partition_point(|&offset| offset.as_usize() <= start + place) - 1;
        let position = start + place - offsets[row].as_usize();
        return Err(Error::invalid(format!(
            "row {} has a null at position {position}; drop or fill nulls",
            first + row
        )));
    }
    let ids = match values.data_type() {
        DataType::UInt16 => Ids::U16(buffer::<UInt16Type>(values)),
        DataType::UInt32 => Ids::U32(buffer::<UInt32Type>(values)),
        DataType::Int32 => Ids::I32(buffer::<Int32Type>(values)),
        DataType::Int64 => Ids::I64(buffer::<Int64Type>(values)),
        _ => return Err(not_lists(list.data_type())),
    };
    Ok(Chunk { offsets: offsets_of(offsets.inner().clone()), ids })
}

fn buffer<T: ArrowPrimitiveType>(values: &Arc<dyn Array>) -> Buffer<T::Native>
where
    ScalarBuffer<T::Native>: AsRef<[T::Native]> + Send + Sync,
{
    let values: &PrimitiveArray<T> = values.as_primitive();
    Box::new(values.values().clone())
}

/// Row numbers; in place where they are one chunk.
fn numbers(chunks: &[ArrayRef]) -> Result<Buffer<u64>> {
    let mut parts = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        match chunk.as_primitive_opt::<UInt64Type>() {
            Some(part) if part.null_count() == 0 => parts.push(part.values().clone()),
            _ => {
                return Err(Error::Type(format!(
                    "indices of type {} with or without nulls, not uint64",
                    chunk.data_type()
                )));
            }
        }
    }
    if parts.len() == 1 {
        return Ok(Box::new(parts.remove(0)));
    }
    Ok(Box::new(parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u64>>()))
}

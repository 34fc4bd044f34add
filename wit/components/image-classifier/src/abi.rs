// SPDX-License-Identifier: Apache-2.0
//! Memory layout of what crosses the component boundary, and the allocator the host calls.
//!
//! This is what a bindings generator would write for `kedge:ai@0.1.0`: the records below have the
//! layout that the canonical ABI prescribes. Lifting takes ownership of memory that the host made
//! through `cabi_realloc`; lowering only lends, so the owner has to outlive the call.

use std::alloc::{alloc, handle_alloc_error, realloc, Layout};
use std::mem::ManuallyDrop;

/// Whose fault it is; `kedge:ai/types.error`.
#[derive(Clone)]
pub enum Error {
    InvalidArgument(String),
    NotFound(String),
    Unsupported(String),
    ResourceExhausted(String),
    Internal(String),
}

impl Error {
    fn parts(&self) -> (u8, &str) {
        match self {
            Error::InvalidArgument(text) => (0, text),
            Error::NotFound(text) => (1, text),
            Error::Unsupported(text) => (2, text),
            Error::ResourceExhausted(text) => (3, text),
            Error::Internal(text) => (4, text),
        }
    }
}

/// `kedge:ai/types.element-type`, in the order of the WIT.
#[allow(dead_code)]
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum ElementType {
    Boolean,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bytes,
}

/// A string or list: where it is and how many elements it has.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct RawList {
    pointer: usize,
    length: usize,
}

impl RawList {
    pub fn lend<T>(items: &[T]) -> Self {
        RawList {
            pointer: items.as_ptr() as usize,
            length: items.len(),
        }
    }

    /// Takes the elements over.
    ///
    /// # Safety
    /// The host wrote this list of `T` into memory from `cabi_realloc`, and nobody else takes it.
    pub unsafe fn take<T>(self) -> Vec<T> {
        if self.length == 0 {
            return Vec::new();
        }
        Vec::from_raw_parts(self.pointer as *mut T, self.length, self.length)
    }

    /// Takes a string over.
    ///
    /// # Safety
    /// As `take`; the host guarantees UTF-8.
    pub unsafe fn take_string(self) -> String {
        String::from_utf8_unchecked(self.take())
    }

    /// # Safety
    /// `pointer` and `length` arrived as the two flat values of a list.
    pub unsafe fn from_flat(pointer: usize, length: usize) -> Self {
        RawList { pointer, length }
    }
}

/// `tuple<string, tensor>`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct RawNamed {
    pub name: RawList,
    pub handle: u32,
}

/// `tuple<string, string>`.
#[repr(C)]
pub struct RawParameter {
    pub name: RawList,
    pub value: RawList,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct RawError {
    case: u8,
    text: RawList,
}

impl RawError {
    pub fn lend(error: &Error) -> Self {
        let (case, text) = error.parts();
        RawError {
            case,
            text: RawList::lend(text.as_bytes()),
        }
    }

    unsafe fn take(self) -> Error {
        let text = self.text.take_string();
        match self.case {
            0 => Error::InvalidArgument(text),
            1 => Error::NotFound(text),
            2 => Error::Unsupported(text),
            3 => Error::ResourceExhausted(text),
            _ => Error::Internal(text),
        }
    }
}

#[repr(C)]
union RawPayload<T: Copy> {
    ok: ManuallyDrop<T>,
    error: ManuallyDrop<RawError>,
}

/// `result<T, error>`.
#[repr(C)]
pub struct RawResult<T: Copy> {
    failed: u8,
    payload: RawPayload<T>,
}

impl<T: Copy> RawResult<T> {
    pub fn ok(value: T) -> Self {
        RawResult {
            failed: 0,
            payload: RawPayload {
                ok: ManuallyDrop::new(value),
            },
        }
    }

    pub fn error(error: RawError) -> Self {
        RawResult {
            failed: 1,
            payload: RawPayload {
                error: ManuallyDrop::new(error),
            },
        }
    }

    /// # Safety
    /// The host wrote this result, and nobody else takes it.
    pub unsafe fn take(self) -> Result<T, Error> {
        match self.failed {
            0 => Ok(*self.payload.ok),
            _ => Err((*self.payload.error).take()),
        }
    }
}

/// The host allocates arguments and results of imports here.
///
/// # Safety
/// Called by the host only, with what an earlier call answered, or with length 0.
#[no_mangle]
pub unsafe extern "C" fn cabi_realloc(
    old: *mut u8,
    old_length: usize,
    align: usize,
    new_length: usize,
) -> *mut u8 {
    if new_length == 0 {
        return align as *mut u8; // in bounds and aligned, which the host checks even for nothing
    }
    let pointer = if old_length == 0 {
        alloc(Layout::from_size_align_unchecked(new_length, align))
    } else {
        realloc(
            old,
            Layout::from_size_align_unchecked(old_length, align),
            new_length,
        )
    };
    if pointer.is_null() {
        handle_alloc_error(Layout::from_size_align_unchecked(new_length, align));
    }
    pointer
}

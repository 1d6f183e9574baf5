//! An allocator that ends the process when a single allocation exceeds a limit: a file must not make its reader allocate more than a few
//! times the file's size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

fn check(size: usize) {
    let most = MOST.load(Ordering::Relaxed);
    if size > most {
        MOST.store(usize::MAX, Ordering::Relaxed);
        panic!("an allocation of {size} bytes exceeds the limit of {most}");
    }
}

// SAFETY: Every call is forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs a reader of `len` bytes under the limit, which leaves room for messages and small tables.
pub fn limited<T>(len: usize, read: impl FnOnce() -> T) -> T {
    MOST.store(len * 4 + (64 << 10), Ordering::Relaxed);
    let result = read();
    MOST.store(usize::MAX, Ordering::Relaxed);
    result
}

/// Asserts that an error is one sentence about a bad file.
#[allow(dead_code, reason = "not every target has such errors")]
pub fn sentence(error: &graftling::Error) {
    let message = error.to_string();
    assert!(error.exit_code() == 3 && !message.chars().any(char::is_control) && message.len() < 2000, "{message:?}");
}

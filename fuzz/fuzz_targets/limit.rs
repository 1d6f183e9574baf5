//! An allocator that ends the process when one allocation is larger than it may be: a file must not make the reader take more than a few
//! times its own size.

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
        panic!("an allocation of {size} bytes, and {most} may be");
    }
}

// SAFETY: Every call goes to the system's allocator as it came.
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

/// Runs what reads an input of `len` bytes. Messages and tables of a few entries may take some thousand bytes of their own.
pub fn limited<T>(len: usize, read: impl FnOnce() -> T) -> T {
    MOST.store(len * 4 + (64 << 10), Ordering::Relaxed);
    let result = read();
    MOST.store(usize::MAX, Ordering::Relaxed);
    result
}

/// What every error is: a sentence, and of a bad file.
#[allow(dead_code, reason = "not every target has such errors")]
pub fn sentence(error: &graftling::Error) {
    let message = error.to_string();
    assert!(error.exit_code() == 3 && !message.chars().any(char::is_control) && message.len() < 2000, "{message:?}");
}

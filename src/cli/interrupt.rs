//! Ctrl-C: the first stops the run after the current step, the second at once.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use indicatif::{ProgressBar, WeakProgressBar};

static ASKED: AtomicBool = AtomicBool::new(false);
/// The bar above which the reply is printed.
static BAR: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// Starts handling Ctrl-C and the system's requests to terminate: the first prints a reply and makes [`asked`] true, the second ends the
/// process.
pub fn listen() {
    // The handler runs in an ordinary thread, so it can wait for the bar.
    let heard = ctrlc::set_handler(|| {
        let bar = bar().as_ref().and_then(WeakProgressBar::upgrade).unwrap_or_else(ProgressBar::hidden);
        if ASKED.swap(true, Ordering::Relaxed) {
            bar.finish_and_clear();
            std::process::exit(130);
        }
        let line = "stopping after this step and saving a checkpoint; press Ctrl-C again to stop at once";
        bar.suspend(|| drop(writeln!(std::io::stderr(), "{line}")));
    });
    // If this fails, Ctrl-C ends the process at once as usual, and the checkpoints on disk are still complete.
    drop(heard);
}

/// Prints the reply above this bar as long as it exists.
pub fn speak_above(new: &ProgressBar) {
    *bar() = Some(new.downgrade());
}

fn bar() -> MutexGuard<'static, Option<WeakProgressBar>> {
    BAR.lock().unwrap_or_else(|e| e.into_inner())
}

/// Whether the run should stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

//! Ctrl-C: the first stops at the next good moment, the second at once.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use indicatif::{ProgressBar, WeakProgressBar};

static ASKED: AtomicBool = AtomicBool::new(false);
/// The bar above which the answer is printed.
static BAR: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// From now on the first Ctrl-C, or the system's wish that the process ends, is answered and kept for [`asked`], and the second ends the
/// process.
pub fn listen() {
    // The handler is a thread like any other, so that it may wait for the bar.
    let heard = ctrlc::set_handler(|| {
        let bar = bar().as_ref().and_then(WeakProgressBar::upgrade).unwrap_or_else(ProgressBar::hidden);
        if ASKED.swap(true, Ordering::Relaxed) {
            bar.finish_and_clear();
            std::process::exit(130);
        }
        let line = "stopping after this step, with a checkpoint; press Ctrl-C again to stop at once";
        bar.suspend(|| drop(writeln!(std::io::stderr(), "{line}")));
    });
    // Without it Ctrl-C ends the process as it does any other, and checkpoints are still whole.
    drop(heard);
}

/// The answer is printed above this bar, as long as there is one.
pub fn speak_above(new: &ProgressBar) {
    *bar() = Some(new.downgrade());
}

fn bar() -> MutexGuard<'static, Option<WeakProgressBar>> {
    BAR.lock().unwrap_or_else(|e| e.into_inner())
}

/// Whether someone wants the run to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

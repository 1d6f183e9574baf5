//! Ctrl-C: the first stops at the next good moment, the second at once.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C, or the system's wish that the process ends, is kept for [`asked`], and the second ends the process.
pub fn listen() {
    let heard = ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        let line = "stopping after this step, with a checkpoint; once more stops at once";
        drop(writeln!(std::io::stderr(), "\n{line}"));
    });
    // Without it Ctrl-C ends the process as it does any other, and checkpoints are still whole.
    drop(heard);
}

/// Whether someone wants the run to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

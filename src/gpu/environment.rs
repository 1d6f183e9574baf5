//! What drivers expect of the environment.

use std::path::Path;

/// Sets `XDG_RUNTIME_DIR` if it names no directory. Vulkan's loader asks the window system for displays, and without that variable,
/// Wayland's library prints an `error:` each time, though nothing is wrong.
///
/// # Safety
/// No other thread may be using the environment: call this first in `main`.
pub unsafe fn set_runtime_directory() {
    const NAME: &str = "XDG_RUNTIME_DIR";
    let absent = || std::env::var_os(NAME).is_none_or(|value| !Path::new(&value).is_absolute());
    if cfg!(all(unix, not(target_vendor = "apple"))) && absent() {
        // Only root can put a socket there for this process to connect to, unlike in /tmp.
        // SAFETY: the caller ensures that no other thread is using the environment.
        unsafe { std::env::set_var(NAME, "/run") };
    }
}

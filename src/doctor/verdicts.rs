//! What earlier processes found about kernels on a device, kept in the user's cache directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::files::{CONFIG_BYTES, read_text};
use crate::gpu::DeviceInfo;
use crate::graph::wgsl;
use crate::weights::fingerprint;

/// The checks of a device by name, with what was wrong in each, if anything.
type Checks = BTreeMap<String, Option<String>>;

/// More devices, drivers and binaries than this in one file are forgotten.
const KEPT: usize = 8;

/// The results of the checks on one device with one driver by one binary. They are a cache: a file that cannot be read or written only
/// means that kernels are checked again.
pub struct Verdicts {
    path: Option<PathBuf>,
    key: String,
    checks: Checks,
}

impl Verdicts {
    /// The verdicts about a device in the user's cache directory: `XDG_CACHE_HOME` or `~/.cache`, `~/Library/Caches` on macOS, and
    /// `%LOCALAPPDATA%` on Windows.
    pub fn of_user(device: &DeviceInfo) -> Verdicts {
        Verdicts::read(cache_directory().map(|directory| directory.join("graftling").join("kernels.json")), device, &binary())
    }

    /// The verdicts about a device in a file.
    pub fn in_file(path: &Path, device: &DeviceInfo) -> Verdicts {
        Verdicts::read(Some(path.into()), device, &binary())
    }

    fn read(path: Option<PathBuf>, device: &DeviceInfo, binary: &str) -> Verdicts {
        let key = format!("{device}, {binary}");
        let checks = path.as_deref().and_then(|path| of_file(path).remove(&key)).unwrap_or_default();
        Verdicts { path, key, checks }
    }

    /// The number of checks so far.
    pub fn len(&self) -> usize {
        self.checks.len()
    }

    /// Whether nothing has been checked.
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }

    /// The checks that failed, with what was wrong.
    pub fn wrong(&self) -> impl Iterator<Item = (&str, &str)> {
        self.checks.iter().filter_map(|(name, wrong)| Some((name.as_str(), wrong.as_deref()?)))
    }

    /// What was wrong in a check, if anything; `None` if it has not been made.
    pub(super) fn of(&self, check: &str) -> Option<Option<String>> {
        self.checks.get(check).cloned()
    }

    pub(super) fn add(&mut self, check: String, wrong: Option<String>) {
        self.checks.insert(check, wrong);
    }

    /// Adds the verdicts to the file. If another process does so at the same time, one of them may have to check again later.
    pub(super) fn save(&self) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let Some(path) = &self.path else { return };
        let mut all = of_file(path);
        all.entry(self.key.clone()).or_default().extend(self.checks.clone());
        if all.len() > KEPT {
            all.retain(|key, _| *key == self.key);
        }
        // Each writer has a temporary file of its own, and a rename is atomic.
        let temporary = path.with_added_extension(format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            std::fs::write(&temporary, serde_json::to_vec_pretty(&all)?)?;
            std::fs::rename(&temporary, path)
        };
        if write().is_err() {
            drop(std::fs::remove_file(&temporary));
        }
    }
}

/// All verdicts in a file, by device and binary; none if it is missing or damaged.
fn of_file(path: &Path) -> BTreeMap<String, Checks> {
    read_text(path, CONFIG_BYTES).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// The version of this binary and a fingerprint of its shaders, which change more often.
fn binary() -> String {
    let shaders = wgsl::FILES.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]);
    format!("graftling {} with shaders {}", env!("CARGO_PKG_VERSION"), fingerprint(shaders))
}

fn cache_directory() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if cfg!(windows) {
        of("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        Some(of("HOME")?.join("Library/Caches"))
    } else {
        of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Folder;
    use crate::graph::Traits;

    fn device(driver: &str) -> DeviceInfo {
        DeviceInfo {
            name: "GPU".into(),
            kind: "other",
            backend: "vulkan".into(),
            driver: driver.into(),
            cpu: false,
            max_buffer: 0,
            max_binding: 0,
            subgroup: None,
            traits: Traits::minimal(),
        }
    }

    impl Folder {
        fn read(&self, driver: &str, binary: &str) -> Verdicts {
            Verdicts::read(Some(self.0.join("cache/kernels.json")), &device(driver), binary)
        }
    }

    #[test]
    fn verdicts_are_remembered_for_one_driver_and_one_binary() {
        let folder = Folder::new("verdicts-remembered");
        let mut verdicts = folder.read("1.0", "a");
        assert!(verdicts.is_empty());
        verdicts.add("norm".into(), None);
        verdicts.save();
        // Another process adds to them.
        let mut other = folder.read("1.0", "a");
        other.add("loss".into(), Some("too high".into()));
        other.save();
        verdicts.add("rope".into(), None);
        verdicts.save();

        let again = folder.read("1.0", "a");
        assert_eq!((again.len(), again.of("norm"), again.of("gated")), (3, Some(None), None));
        assert_eq!(again.wrong().collect::<Vec<_>>(), [("loss", "too high")]);
        assert!(folder.read("1.1", "a").is_empty() && folder.read("1.0", "b").is_empty());
        let files: Vec<_> = std::fs::read_dir(folder.0.join("cache")).expect("a directory").collect();
        assert_eq!(files.len(), 1, "{files:?}");
    }

    #[test]
    fn a_damaged_or_unwritable_file_is_none() {
        let folder = Folder::new("verdicts-damaged");
        let path = folder.0.join("cache/kernels.json");
        std::fs::create_dir_all(folder.0.join("cache")).expect("a directory");
        for text in ["", "{\"GPU (vulkan, 1.0), a\":", "[1]", "{\"GPU (vulkan, 1.0), a\": {\"norm\": 7}}", "\u{1F600}"] {
            std::fs::write(&path, text).expect("a file");
            let mut verdicts = folder.read("1.0", "a");
            assert!(verdicts.is_empty(), "{text}");
            verdicts.add("norm".into(), None);
            verdicts.save();
            assert_eq!(folder.read("1.0", "a").len(), 1, "{text}");
        }
        // A file where the directory should be.
        std::fs::remove_dir_all(&folder.0).expect("it was there");
        std::fs::write(&folder.0, "").expect("a file");
        let verdicts = folder.read("1.0", "a");
        verdicts.save();
        assert!(verdicts.is_empty());
        std::fs::remove_file(&folder.0).expect("it was there");
    }

    #[test]
    fn old_binaries_are_forgotten() {
        let folder = Folder::new("verdicts-forgotten");
        for binary in 0..KEPT + 1 {
            let mut verdicts = folder.read("1.0", &binary.to_string());
            verdicts.add("norm".into(), None);
            verdicts.save();
        }
        assert_eq!(of_file(&folder.0.join("cache/kernels.json")).len(), 1);
        assert!(!folder.read("1.0", &KEPT.to_string()).is_empty());
    }

    /// Writers at the same time leave a whole file.
    #[test]
    fn writers_do_not_disturb_each_other() {
        let folder = Folder::new("verdicts-together");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let folder = &folder;
                scope.spawn(move || {
                    for round in 0..20 {
                        let mut verdicts = folder.read("1.0", "a");
                        verdicts.add(format!("{writer} {round}"), None);
                        verdicts.save();
                    }
                });
            }
        });
        assert!(!folder.read("1.0", "a").is_empty());
    }
}

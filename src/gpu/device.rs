//! Opening a device with everything it offers, and turning what it reports into this crate's errors.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::found::{DeviceInfo, adapters, find_device};
use super::image;
use super::pacing::Pace;
use super::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::graph::{Kernel, Traits};
use crate::words::shown;

/// The first thing that went wrong on a device, kept by its callbacks for [`Device::check`].
#[derive(Default)]
struct Fault(Mutex<Option<Trouble>>);

enum Trouble {
    Lost(String),
    Memory,
    Other(String),
}

impl Fault {
    fn set(&self, trouble: Trouble) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(trouble);
    }
}

/// An open device with its queue and its compiled kernels.
pub struct Device {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    info: DeviceInfo,
    fault: Arc<Fault>,
    pipelines: Mutex<HashMap<Kernel, Arc<Pipeline>>>,
    pace: Mutex<Pace>,
    checked: bool,
    tamper: Option<Tamper>,
}

/// Changes the WGSL of a kernel before it is compiled.
type Tamper = fn(&Kernel, String) -> String;

impl Device {
    /// Opens a device. `wanted` is a number from [`devices`](crate::gpu::devices) or a part of a device's name; without it, the best one is opened.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there is no device, none matches, or it cannot be opened.
    pub fn open(wanted: Option<&str>) -> Result<Device> {
        Device::open_with(wanted, false)
    }

    /// Opens a device whose kernels check every index and bound every loop, for tests.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn open_checked(wanted: Option<&str>) -> Result<Device> {
        Device::open_with(wanted, true)
    }

    fn open_with(wanted: Option<&str>, checked: bool) -> Result<Device> {
        let found = adapters();
        if found.is_empty() {
            let message = "no GPU device was found; install a Vulkan driver (on Debian or Ubuntu: apt install mesa-vulkan-drivers, \
                           which also includes a software device)";
            return Err(Error::NoDevice(message.into()));
        }
        let infos: Vec<_> = found.iter().map(DeviceInfo::of).collect();
        let Some(number) = wanted.map_or(Some(0), |wanted| find_device(&infos, wanted)) else {
            let names: Vec<_> = infos.iter().enumerate().map(|(i, info)| format!("{i} ({info})")).collect();
            let there = if names.len() == 1 { "the only device is" } else { "the devices are" };
            let problem = format!("no device matches '{}'; {there} {}", shown(wanted.unwrap_or("")), names.join(", "));
            return Err(Error::NoDevice(problem));
        };
        Device::from_adapter(&found[number], checked)
    }

    fn from_adapter(adapter: &wgpu::Adapter, checked: bool) -> Result<Device> {
        let (info, limits) = (DeviceInfo::of(adapter), adapter.limits());
        let used = wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16 | wgpu::Features::TIMESTAMP_QUERY;
        let mut features = adapter.features() & used;
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if info.traits.matrix.is_some() {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: of the experimental features only cooperative matrices are used, by kernels that stay within their arrays.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("graftling"),
            required_features: features,
            required_limits: limits,
            experimental_features,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::NoDevice(format!("{info} cannot be opened: {e}; update its driver or choose another device")))?;

        let fault = Arc::new(Fault::default());
        let on_error = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| match error {
            wgpu::Error::OutOfMemory { .. } => on_error.set(Trouble::Memory),
            other => on_error.set(Trouble::Other(other.to_string())),
        }));
        let on_lost = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed || !message.is_empty() {
                on_lost.set(Trouble::Lost(if message.is_empty() { format!("{reason:?}") } else { message }));
            }
        });

        let pace = Mutex::new(Pace::new(&info.traits));
        Ok(Device { device, queue, info, fault, pipelines: Mutex::default(), pace, checked, tamper: None })
    }

    /// Information about the device.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The traits that recordings for this device depend on.
    pub fn traits(&self) -> &Traits {
        &self.info.traits
    }

    /// Makes recordings from now on use other kernels than those of a shader file, where there are others.
    pub fn avoid(&mut self, file: &'static str) {
        self.info.traits.avoided.push(file);
    }

    /// A buffer of `bytes` rounded up to 16.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], naming `label`.
    pub(super) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        self.allocated(label, size, || {
            self.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
        })
    }

    /// An image for `bytes` of texels.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], naming `label`.
    pub(super) fn image(&self, label: &str, texel: naga::StorageFormat, bytes: u64) -> Result<wgpu::Texture> {
        let format = image::format(texel);
        let size = image::extent(bytes, format);
        self.allocated(label, bytes, || {
            self.device.create_texture(&wgpu::TextureDescriptor {
                label: Some(label),
                size,
                mip_level_count: 1,
                sample_count: 1,
                dimension: wgpu::TextureDimension::D2,
                format,
                usage: wgpu::TextureUsages::STORAGE_BINDING | wgpu::TextureUsages::COPY_DST,
                view_formats: &[],
            })
        })
    }

    fn allocated<T>(&self, label: &str, bytes: u64, allocate: impl FnOnce() -> T) -> Result<T> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let allocation = allocate();
        match pollster::block_on(scope.pop()) {
            None => Ok(allocation),
            Some(_) => Err(self.out_of_memory(format!("{label} ({bytes} bytes)"))),
        }
    }

    fn out_of_memory(&self, what: String) -> Error {
        let advice = "close other programs that use it, or reduce the work".into();
        Error::OutOfMemory { device: self.info.to_string(), what, advice }
    }

    /// The pipeline of a kernel, which is compiled only once.
    pub(super) fn pipeline(&self, kernel: &Kernel) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = self.pipelines().get(kernel) {
            return Ok(pipeline.clone());
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let source = match self.tamper {
            None => kernel.wgsl(),
            Some(tamper) => tamper(kernel, kernel.wgsl()),
        };
        let pipeline = Arc::new(Pipeline::new(&self.device, kernel, source, self.checked));
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(Error::Device { device: self.info.to_string(), reason: format!("kernel {kernel} does not compile: {error}") });
        }
        self.pipelines().insert(kernel.clone(), pipeline.clone());
        Ok(pipeline)
    }

    /// Compiles kernels in advance, as many at a time as the machine has cores: some drivers take a second for one. If several do not
    /// compile, the error is that of the first.
    pub(super) fn compile<'a>(&self, kernels: impl Iterator<Item = &'a Kernel>) -> Result<()> {
        let mut seen = HashSet::new();
        let missing: Vec<_> = kernels.filter(|&kernel| seen.insert(kernel) && !self.pipelines().contains_key(kernel)).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        let waiting = Mutex::new(missing.into_iter().enumerate());
        // A worker stops at its first error. By then, all kernels before that one have been taken.
        let work = || loop {
            let next = waiting.lock().unwrap_or_else(|e| e.into_inner()).next();
            let (at, kernel) = next?;
            if let Err(error) = self.pipeline(kernel) {
                return Some((at, error));
            }
        };
        let errors = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let ends = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            ends.flatten().collect::<Vec<_>>()
        });
        errors.into_iter().min_by_key(|&(at, _)| at).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// How many kernels are compiled.
    pub fn kernels(&self) -> usize {
        self.pipelines().len()
    }

    fn pipelines(&self) -> MutexGuard<'_, HashMap<Kernel, Arc<Pipeline>>> {
        self.pipelines.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What is known of the device's speed.
    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Returns the error that the device's callbacks received, if any.
    pub(super) fn check(&self) -> Result<()> {
        let device = self.info.to_string();
        match &*self.fault.0.lock().unwrap_or_else(|e| e.into_inner()) {
            None => Ok(()),
            Some(Trouble::Memory) => Err(self.out_of_memory("the buffers of a program".into())),
            Some(Trouble::Lost(reason)) => Err(Error::DeviceLost { device, reason: reason.clone() }),
            Some(Trouble::Other(reason)) => Err(Error::Device { device, reason: reason.clone() }),
        }
    }

    /// Waits until a submission, or all of them, are done.
    pub(super) fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<()> {
        // No timeout: a driver that hangs reports a lost device by itself, and a wait that times out while another thread also waits
        // fails an assertion in wgpu 30 (gfx-rs/wgpu#9958).
        let polled = self.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None });
        self.check()?;
        polled.map(drop).map_err(|e| Error::Device { device: self.info.to_string(), reason: e.to_string() })
    }

    /// Writes bytes into a buffer, followed by zeros up to a multiple of 4.
    pub(super) fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) {
        let (whole, rest) = bytes.split_at(bytes.len() / 4 * 4);
        self.queue.write_buffer(buffer, offset, whole);
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            self.queue.write_buffer(buffer, offset + whole.len() as u64, &last);
        }
    }

    /// Copies a range of a buffer to the host, after everything submitted so far.
    pub(super) fn read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let size = bytes.next_multiple_of(4);
        let staging = self.buffer("readback", size, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size);
        let submission = self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| ());
        self.wait(Some(submission))?;
        let mapped = staging.get_mapped_range(..size);
        let view = mapped.map_err(|e| Error::Device { device: self.info.to_string(), reason: e.to_string() })?;
        Ok(view[..bytes as usize].to_vec())
    }

    /// Loses the device at once, as a driver reset would; for tests of what happens then.
    #[doc(hidden)]
    pub fn lose(&self) {
        self.fault.set(Trouble::Lost("the test asked for it".into()));
        self.device.destroy();
    }

    /// Changes the limits that recordings for this device see; for tests.
    #[doc(hidden)]
    pub fn limit(&mut self, with: impl FnOnce(&mut Traits)) {
        with(&mut self.info.traits);
    }

    /// Changes the WGSL of kernels that are compiled from now on; for tests of what happens if one is wrong.
    #[doc(hidden)]
    pub fn tamper(&mut self, with: fn(&Kernel, String) -> String) {
        self.tamper = Some(with);
    }
}

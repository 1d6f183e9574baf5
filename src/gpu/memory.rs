//! What a model keeps on the device between programs: frozen weights, the arenas, the metrics, and the values of the current step.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::device::Device;
use super::pipeline::step_layout;
use crate::error::Result;
use crate::graph::{Arenas, Graph, IMAGE_ROW, Image, Info, METRICS_WORDS, Parameter, Parameters, Role, Tensor};

/// The values that change from step to step; `shaders/shared/step.wgsl` mirrors them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// The seed of all dropout masks.
    pub seed: u32,
    /// A number that differs from batch to batch, so that masks differ too.
    pub counter: u32,
    /// The weight of each target's loss: one over the number of targets in the step.
    pub target_weight: f32,
    /// The optimizer's learning rate.
    pub learning_rate: f32,
    /// Gradients are multiplied by this and by [`Metrics::loss_scale`] in the backward pass; the optimizer divides by both. 1 if
    /// gradients are f32.
    pub backward_scale: f32,
}

impl Default for Step {
    fn default() -> Self {
        Step { seed: 0, counter: 0, target_weight: 0.0, learning_rate: 0.0, backward_scale: 1.0 }
    }
}

/// What a step reports to the host, and what the optimizer keeps between steps; `shaders/shared/metrics.wgsl` mirrors it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Metrics {
    /// The mean loss over the targets of the step.
    pub loss: f32,
    /// The norm of the gradient, before clipping.
    pub gradient_norm: f32,
    /// What the optimizer multiplied the gradient by, to clip it and to undo its scaling.
    pub gradient_scale: f32,
    /// 1 if loss and gradient are finite, so that the step counts; else 0.
    pub finite: u32,
    /// Steps that counted.
    pub updates: u32,
    /// Steps that were skipped.
    pub skipped: u32,
    /// Skipped steps since the last one that counted, except those that lowered the loss scale.
    pub skipped_in_a_row: u32,
    /// The loss scale of the next step, which keeps gradients within the range of f16 (Micikevicius et al. 2018); 1 if they are f32.
    pub loss_scale: f32,
    /// Steps in a row that counted at this loss scale.
    pub growth_tracker: u32,
}

const _: () = assert!(std::mem::size_of::<Metrics>() == 4 * METRICS_WORDS as usize);

impl Default for Metrics {
    fn default() -> Self {
        Metrics { loss_scale: 1.0, ..bytemuck::Zeroable::zeroed() }
    }
}

/// The device memory of one model.
pub struct Memory {
    parameters: Parameters,
    infos: Vec<Info>,
    arenas: Arenas,
    buffers: Vec<Option<wgpu::Buffer>>,
    step: wgpu::Buffer,
    pub(super) step_group: wgpu::BindGroup,
    bytes: u64,
    /// Weights that are another memory's too.
    shared: HashSet<Tensor>,
    scratch: Arc<Mutex<Scratch>>,
    /// Bytes written since the last submission.
    staged: AtomicUsize,
}

/// Buffers for activations, the largest first, images for operands, and the total of bytes ever allocated for them.
#[derive(Default)]
struct Scratch {
    buffers: Vec<wgpu::Buffer>,
    images: HashMap<Image, wgpu::Texture>,
    bytes: u64,
}

/// Writes are submitted as soon as this many bytes are waiting.
const STAGED: usize = 8 << 20;

pub(super) const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

impl Memory {
    /// Allocates zeroed memory for a model's weights and, if it is to be trained, for gradients and moments. The loss scale is 1.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] or [`crate::Error::OutOfMemory`].
    pub fn new(device: &Device, parameters: &Parameters, training: bool) -> Result<Memory> {
        Memory::with(device, parameters, training, None, |_| false)
    }

    /// Like [`Memory::new`] without training, for a model that differs little from that of another memory: frozen weights that both have, if `same`
    /// says that they have the same values, are in memory once, and so are the activations.
    ///
    /// # Errors
    /// As [`Memory::new`].
    pub fn beside(device: &Device, parameters: &Parameters, other: &Memory, same: impl Fn(&Parameter) -> bool) -> Result<Memory> {
        Memory::with(device, parameters, false, Some(other), same)
    }

    fn with(
        device: &Device,
        parameters: &Parameters,
        training: bool,
        other: Option<&Memory>,
        same: impl Fn(&Parameter) -> bool,
    ) -> Result<Memory> {
        let shared_buffer = |parameter: &Parameter| {
            let candidate = Some(parameter).filter(|own| own.arena_offset.is_none() && same(own))?;
            let (tensor, _) = other?.parameters.iter().find(|(_, theirs)| *theirs == candidate)?;
            other?.buffer(tensor).cloned()
        };
        let graph = Graph::new(device.traits(), parameters, training);
        graph.check_limits()?;
        let (infos, arenas) = (graph.tensors().to_vec(), graph.arenas());
        let (mut bytes, mut shared) = (0, HashSet::new());
        let mut buffers = Vec::with_capacity(infos.len());
        for (i, info) in infos.iter().enumerate() {
            let tensor = Tensor(i as u32);
            buffers.push(if let Some(buffer) = parameters.get(tensor).and_then(shared_buffer) {
                shared.insert(tensor);
                Some(buffer)
            } else if graph.takes_memory(tensor) {
                bytes += info.bytes();
                let smaller = || "use a smaller model, or one in a smaller format".into();
                Some(device.buffer(&info.label, info.bytes(), STORAGE).map_err(|error| error.advised(smaller))?)
            } else {
                None
            });
        }
        let size = std::mem::size_of::<Step>() as u64;
        let step = device.buffer("step", size, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST)?;
        let step_group = device.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("step"),
            layout: &step_layout(&device.device),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: step.as_entire_binding() }],
        });
        let memory = Memory {
            parameters: parameters.clone(),
            infos,
            arenas,
            buffers,
            step,
            step_group,
            bytes,
            shared,
            scratch: other.map_or_else(Arc::default, |other| other.scratch.clone()),
            staged: AtomicUsize::new(0),
        };
        memory.set_metrics(device, Metrics::default());
        Ok(memory)
    }

    /// The list of weights that this memory holds.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The arenas and the metrics.
    pub fn arenas(&self) -> Arenas {
        self.arenas
    }

    /// Whether the weight is in another memory, with its values, and must not be written.
    pub fn is_shared(&self, weight: Tensor) -> bool {
        self.shared.contains(&weight)
    }

    /// How many bytes of device memory the model takes, including the activations of its programs, but not what it shares with another.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.scratch().bytes
    }

    fn scratch(&self) -> MutexGuard<'_, Scratch> {
        self.scratch.lock().expect("nothing panics while it has the lock")
    }

    /// A buffer of at least each of these sizes. All programs of a model share the buffers, since they run one after another, so the
    /// largest program should be made first.
    pub(super) fn activations(&self, device: &Device, sizes: &[u64]) -> Result<Vec<wgpu::Buffer>> {
        let mut scratch = self.scratch();
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&i| (Reverse(sizes[i]), i));
        let mut given = vec![None; sizes.len()];
        for (rank, &i) in order.iter().enumerate() {
            if scratch.buffers.get(rank).is_none_or(|buffer| buffer.size() < sizes[i]) {
                let buffer = device.buffer(&format!("activations {rank}"), sizes[i], STORAGE)?;
                scratch.bytes += sizes[i];
                scratch.buffers.truncate(rank);
                scratch.buffers.push(buffer);
            }
            given[i] = Some(scratch.buffers[rank].clone());
        }
        Ok(given.into_iter().flatten().collect())
    }

    /// Images of at least these sizes, shared like the buffers.
    pub(super) fn images(&self, device: &Device, wanted: &HashMap<Image, u64>) -> Result<HashMap<Image, wgpu::Texture>> {
        let mut scratch = self.scratch();
        for (&(number, texel), &bytes) in wanted {
            let large_enough = |image: &wgpu::Texture| u64::from(image.height()) * u64::from(IMAGE_ROW) >= bytes;
            if !scratch.images.get(&(number, texel)).is_some_and(large_enough) {
                let image = device.image("an operand as an image", texel, bytes)?;
                scratch.bytes += bytes;
                scratch.images.insert((number, texel), image);
            }
        }
        Ok(scratch.images.clone())
    }

    /// The buffer of a weight or arena and the byte at which it begins there.
    fn place(&self, tensor: Tensor) -> (&wgpu::Buffer, u64) {
        let info = &self.infos[tensor.index()];
        let (root, offset) = match info.role {
            Role::View { of, offset } => (of, info.dtype.bytes(offset)),
            _ => (tensor, 0),
        };
        (self.buffer(root).unwrap_or_else(|| panic!("'{}' has no memory, because the model is not being trained", info.label)), offset)
    }

    pub(super) fn buffer(&self, root: Tensor) -> Option<&wgpu::Buffer> {
        self.buffers.get(root.index())?.as_ref()
    }

    /// Writes the bytes of a weight or arena.
    ///
    /// # Panics
    /// If `bytes` does not have the size of the tensor.
    pub fn write(&self, device: &Device, tensor: Tensor, bytes: &[u8]) {
        let info = &self.infos[tensor.index()];
        assert_eq!(bytes.len() as u64, info.bytes(), "the number of bytes for '{}' {}", info.label, info.shape);
        self.write_at(device, tensor, 0, bytes);
    }

    /// Writes bytes into a weight or arena, from its byte `start` on, a multiple of 4.
    pub fn write_at(&self, device: &Device, tensor: Tensor, start: u64, bytes: &[u8]) {
        let (buffer, offset) = self.place(tensor);
        let offset = offset + start;
        device.write(buffer, offset, bytes);
        // Written bytes wait in staging memory for a submission: a large model should not wait there as a whole.
        if self.staged.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len() >= STAGED {
            self.staged.store(0, Ordering::Relaxed);
            device.queue.submit([]);
            let _ = device.device.poll(wgpu::PollType::Poll);
        }
    }

    /// Reads the bytes of a weight or arena, after everything submitted so far.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self, device: &Device, tensor: Tensor) -> Result<Vec<u8>> {
        self.read_at(device, tensor, 0, self.infos[tensor.index()].bytes())
    }

    /// Reads `len` bytes of a weight or arena, from its byte `start` on, a multiple of 4.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read_at(&self, device: &Device, tensor: Tensor, start: u64, len: u64) -> Result<Vec<u8>> {
        let (buffer, offset) = self.place(tensor);
        device.read(buffer, offset + start, len)
    }

    /// Sets the values of the step that is submitted next.
    pub fn set_step(&self, device: &Device, step: Step) {
        device.queue.write_buffer(&self.step, 0, bytemuck::bytes_of(&step));
    }

    /// The metrics, after everything submitted so far.
    ///
    /// # Errors
    /// If the device fails.
    pub fn metrics(&self, device: &Device) -> Result<Metrics> {
        Ok(bytemuck::pod_read_unaligned(&self.read(device, self.arenas.metrics)?))
    }

    /// Sets the metrics that the step submitted next begins with.
    pub fn set_metrics(&self, device: &Device, metrics: Metrics) {
        self.write(device, self.arenas.metrics, bytemuck::bytes_of(&metrics));
    }

    /// Zeroes the loss and, if there is one, the gradient arena, at the beginning of a step.
    pub fn clear(&self, device: &Device) {
        let mut encoder = device.device.create_command_encoder(&Default::default());
        if let Some(gradients) = self.buffer(self.arenas.gradients) {
            encoder.clear_buffer(gradients, 0, None);
        }
        if let Some(metrics) = self.buffer(self.arenas.metrics) {
            encoder.clear_buffer(metrics, 0, Some(4));
        }
        device.queue.submit([encoder.finish()]);
    }
}

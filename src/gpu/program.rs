//! A recording made runnable: buffers, bind groups and pipelines, created once and replayed.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::device::Device;
use super::image::ImageCopy;
use super::memory::{Memory, STORAGE};
use super::pacing::Pacing;
use super::pipeline::Pipeline;
use super::state::State;
use crate::error::{Error, Result};
use crate::graph::{Access, DType, Graph, Image, Info, Plan, Role, Tensor};

/// Uniform parameters begin at multiples of this many bytes, the strictest alignment that a device may require.
const SLOT: u64 = 256;

/// A dispatch that is ready to run.
pub(super) struct Launch {
    pipeline: Arc<Pipeline>,
    /// What has to be copied to images before it.
    copies: Vec<ImageCopy>,
    group: wgpu::BindGroup,
    workgroups: [u32; 3],
    pub(super) label: String,
    pub(super) kernel: String,
    pub(super) bytes: u64,
    pub(super) operations: u64,
}

impl Launch {
    /// Whether anything has to be copied before it.
    pub(super) fn copies(&self) -> bool {
        !self.copies.is_empty()
    }

    /// Copies what the kernel reads from images, before the pass that it runs in.
    pub(super) fn copy(&self, encoder: &mut wgpu::CommandEncoder) {
        self.copies.iter().for_each(|copy| copy.encode(encoder));
    }
}

/// A compiled recording for one batch size and length.
pub struct Program {
    pub(super) launches: Vec<Launch>,
    infos: Vec<Info>,
    roots: Vec<(Tensor, u64)>,
    buffers: Vec<Option<wgpu::Buffer>>,
    step_group: wgpu::BindGroup,
    bytes: u64,
    pacing: Pacing,
    padding: u64,
}

/// The word that follows every output in a program made for tests.
const CANARY: u32 = 0xC0FF_EE11;

impl Program {
    /// Compiles a recording. `memory` holds the model that it was recorded for.
    ///
    /// # Errors
    /// [`Error::Limit`] before anything is allocated, or [`Error::OutOfMemory`], naming the tensor; [`Error::Device`] if a kernel does not
    /// compile.
    pub fn new(device: &Device, memory: &Memory, graph: &Graph) -> Result<Program> {
        Program::build(device, memory, None, graph, false)
    }

    /// Compiles a recording that declares states, whose contents are in `state`. Programs made with the same `state` continue where the
    /// others stopped.
    ///
    /// # Errors
    /// As [`Program::new`].
    ///
    /// # Panics
    /// If `state` was made for a recording with other states.
    pub fn with_state(device: &Device, memory: &Memory, state: &State, graph: &Graph) -> Result<Program> {
        Program::build(device, memory, Some(state), graph, false)
    }

    /// Compiles a recording for tests: every activation has its own buffer, full of NaN, with a canary after its end.
    ///
    /// # Errors
    /// As [`Program::new`].
    pub fn with_canaries(device: &Device, memory: &Memory, graph: &Graph) -> Result<Program> {
        Program::build(device, memory, None, graph, true)
    }

    /// Combines [`Program::with_state`] and [`Program::with_canaries`].
    ///
    /// # Errors
    /// As [`Program::new`].
    pub fn with_state_and_canaries(device: &Device, memory: &Memory, state: &State, graph: &Graph) -> Result<Program> {
        Program::build(device, memory, Some(state), graph, true)
    }

    fn build(device: &Device, memory: &Memory, state: Option<&State>, graph: &Graph, canaries: bool) -> Result<Program> {
        graph.check_limits()?;
        let infos = graph.tensors().to_vec();
        let roots: Vec<_> = (0..infos.len()).map(|i| graph.root(Tensor(i as u32))).collect();
        match state {
            Some(state) => state.assert_same(graph),
            None => assert_eq!(graph.states().count(), 0, "a recording with states needs memory for them"),
        }
        let plan = graph.plan();
        let images = memory.images(device, &plan.images)?;
        let views: HashMap<_, _> = images.iter().map(|(&image, texture)| (image, texture.create_view(&Default::default()))).collect();
        let (buffers, bytes) = allocate(device, memory, state, graph, &plan, canaries)?;
        let params = params_buffer(device, graph)?;
        let padding = if canaries { SLOT } else { 0 };
        let mut program = Program {
            launches: Vec::new(),
            infos,
            roots,
            buffers,
            step_group: memory.step_group.clone(),
            bytes,
            pacing: Pacing::new(graph.line()),
            padding,
        };

        device.compile(graph.line().iter().map(|dispatch| &dispatch.kernel))?;
        let scope = device.device.push_error_scope(wgpu::ErrorFilter::Validation);
        // What each image holds at this point of the line, so that dispatches which read the same matrix share one copy.
        let mut held: HashMap<Image, ImageCopy> = HashMap::new();
        for (i, dispatch) in graph.line().iter().enumerate() {
            let pipeline = device.pipeline(&dispatch.kernel)?;
            let reflection = &pipeline.reflection;
            let mut copies = Vec::new();
            let mut entries = Vec::with_capacity(dispatch.arguments.len() + 1);
            if !reflection.params.is_empty() {
                let size = wgpu::BufferSize::new((dispatch.params.len() as u64).next_multiple_of(16));
                let binding = wgpu::BufferBinding { buffer: &params, offset: i as u64 * SLOT, size };
                entries.push(wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding) });
            }
            for (number, (declared, argument)) in reflection.storage.iter().zip(&dispatch.arguments).enumerate() {
                let resource = match declared.texel {
                    Some(texel) => {
                        let image = (number, texel);
                        let copy = program.copy_to(&images[&image], memory, argument.tensor);
                        if held.get(&image) != Some(&copy) {
                            held.insert(image, copy.clone());
                            copies.push(copy);
                        }
                        wgpu::BindingResource::TextureView(&views[&image])
                    }
                    None => wgpu::BindingResource::Buffer(program.range(memory, argument.tensor)),
                };
                entries.push(wgpu::BindGroupEntry { binding: declared.binding, resource });
            }
            for argument in dispatch.arguments.iter().filter(|argument| argument.access != Access::Read) {
                let (written, _) = program.buffer(memory, argument.tensor);
                held.retain(|_, copy| copy.buffer != *written);
            }
            let group = device.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&dispatch.label),
                layout: &pipeline.layout,
                entries: &entries,
            });
            program.launches.push(Launch {
                pipeline,
                copies,
                group,
                workgroups: dispatch.workgroups,
                label: dispatch.label.clone(),
                kernel: dispatch.kernel.to_string(),
                bytes: dispatch.bytes,
                operations: dispatch.operations,
            });
        }
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(Error::Device { device: device.info().to_string(), reason: error.to_string() });
        }
        device.check()?;
        Ok(program)
    }

    /// The buffer that holds a tensor, of the model or of this program, and the byte where the tensor begins.
    fn buffer<'a>(&'a self, memory: &'a Memory, tensor: Tensor) -> (&'a wgpu::Buffer, u64) {
        let (root, offset) = self.roots[tensor.index()];
        let buffer = memory.buffer(root).or(self.buffers[root.index()].as_ref());
        (buffer.unwrap_or_else(|| panic!("'{}' has no memory", self.infos[tensor.index()].label)), offset)
    }

    /// The copy of this tensor to an image.
    fn copy_to(&self, image: &wgpu::Texture, memory: &Memory, tensor: Tensor) -> ImageCopy {
        let (buffer, offset) = self.buffer(memory, tensor);
        ImageCopy { buffer: buffer.clone(), offset, bytes: self.infos[tensor.index()].bytes(), image: image.clone() }
    }

    /// The range of a buffer that a kernel sees as this tensor.
    fn range<'a>(&'a self, memory: &'a Memory, tensor: Tensor) -> wgpu::BufferBinding<'a> {
        let (buffer, offset) = self.buffer(memory, tensor);
        let info = &self.infos[tensor.index()];
        let size = info.bytes().next_multiple_of(16);
        // A kernel under test also sees what follows its outputs: otherwise, bounds checks would keep it from the canaries.
        let tested = self.padding > 0;
        let seen = if tested { (info.bytes().next_multiple_of(4) + self.padding).min(buffer.size() - offset) } else { size };
        wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(seen) }
    }

    /// How many bytes of device memory the program's own buffers take; activations belong to [`Memory`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes an input for the next run.
    ///
    /// # Panics
    /// If `values` does not have the size of the tensor.
    pub fn write<T: bytemuck::Pod>(&self, device: &Device, input: Tensor, values: &[T]) {
        let info = &self.infos[input.index()];
        let bytes: &[u8] = bytemuck::cast_slice(values);
        assert_eq!(bytes.len() as u64, info.bytes(), "the number of bytes for '{}' {}", info.label, info.shape);
        if let Some(buffer) = &self.buffers[input.index()] {
            device.write(buffer, 0, bytes);
        }
    }

    /// Replays the recording in submissions of bounded length. The first one or two runs wait for each submission to time it; later runs
    /// only submit.
    ///
    /// # Errors
    /// If the device fails or is lost.
    pub fn run(&mut self, device: &Device) -> Result<()> {
        let settled = self.pacing.settled();
        let submitted = |commands: Option<wgpu::CommandBuffer>| {
            let started = Instant::now();
            let submission = device.queue.submit(commands);
            if !settled {
                device.wait(Some(submission))?;
            }
            Ok(started.elapsed())
        };
        let mut overhead = Duration::ZERO;
        if !settled {
            // Earlier work must not count as this program's, nor the time that an empty submission takes.
            submitted(None)?;
            overhead = submitted(None)?;
        }
        let mut begin = 0;
        while begin < self.launches.len() {
            let submission = self.pacing.submission(&device.pace(), begin);
            begin = submission.end;
            let mut encoder = device.device.create_command_encoder(&Default::default());
            let mut rest = &self.launches[submission.clone()];
            while !rest.is_empty() {
                // One pass, until something has to be copied to an image.
                let copied = rest.iter().skip(1).position(Launch::copies);
                let (together, later) = rest.split_at(copied.map_or(rest.len(), |at| at + 1));
                together[0].copy(&mut encoder);
                let mut pass = encoder.begin_compute_pass(&Default::default());
                together.iter().for_each(|launch| self.encode(&mut pass, launch));
                rest = later;
            }
            let took = submitted(Some(encoder.finish()))?;
            if !settled {
                self.pacing.timed(&mut device.pace(), submission, took.saturating_sub(overhead).as_secs_f64());
            }
        }
        device.check()
    }

    /// The submissions that a run consists of, as ranges of the recorded line.
    pub fn submissions(&self, device: &Device) -> Vec<Range<usize>> {
        let pace = device.pace();
        let mut submissions: Vec<Range<usize>> = Vec::new();
        while let begin = submissions.last().map_or(0, |submission| submission.end)
            && begin < self.launches.len()
        {
            submissions.push(self.pacing.submission(&pace, begin));
        }
        submissions
    }

    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass, launch: &Launch) {
        pass.set_pipeline(&launch.pipeline.pipeline);
        pass.set_bind_group(0, &launch.group, &[]);
        if launch.pipeline.reflection.uses_step {
            pass.set_bind_group(1, &self.step_group, &[]);
        }
        let [x, y, z] = launch.workgroups;
        pass.dispatch_workgroups(x, y, z);
    }

    /// Reads a tensor of f32 or f16 after a run: an output, an input, a state, or a range of an arena.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the tensor was not kept by [`Graph::keep`] or is neither f32 nor f16.
    pub fn read(&self, device: &Device, memory: &Memory, tensor: Tensor) -> Result<Vec<f32>> {
        let info = &self.infos[tensor.index()];
        let (root, _) = self.roots[tensor.index()];
        assert_ne!(self.infos[root.index()].role, Role::Activation, "'{}' was not kept", info.label);
        let (buffer, offset) = self.buffer(memory, tensor);
        let bytes = device.read(buffer, offset, info.bytes())?;
        Ok(match info.dtype {
            DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
            DType::F16 => bytemuck::pod_collect_to_vec::<_, half::f16>(&bytes).into_iter().map(half::f16::to_f32).collect(),
            other => panic!("'{}' is {other:?}", info.label),
        })
    }

    /// The label of an activation past whose end something was written, in a program made by [`Program::with_canaries`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn damaged_canary(&self, device: &Device) -> Result<Option<String>> {
        for (info, buffer) in self.infos.iter().zip(&self.buffers) {
            let Some(buffer) = buffer else { continue };
            if !matches!(info.role, Role::Activation | Role::Output) {
                continue;
            }
            let words: Vec<u32> = bytemuck::pod_collect_to_vec(&device.read(buffer, info.bytes().next_multiple_of(4), self.padding)?);
            if words.iter().any(|&w| w != CANARY) {
                return Ok(Some(info.label.clone()));
            }
        }
        Ok(None)
    }
}

/// The bytes of device memory that programs of these recordings will take in addition to the model's weights.
pub fn bytes_of(graphs: &[&Graph]) -> u64 {
    let mut shared: Vec<u64> = Vec::new();
    let mut images: HashMap<Image, u64> = HashMap::new();
    for graph in graphs {
        let Plan { mut sizes, images: own, .. } = graph.plan();
        for (image, bytes) in own {
            let largest = images.entry(image).or_default();
            *largest = bytes.max(*largest);
        }
        sizes.sort_by_key(|&size| Reverse(size));
        shared.resize(shared.len().max(sizes.len()), 0);
        shared.iter_mut().zip(sizes).for_each(|(most, size)| *most = size.max(*most));
    }
    let own = |info: &&Info| matches!(info.role, Role::Input | Role::Output);
    let own = graphs.iter().flat_map(|graph| graph.tensors()).filter(own).map(Info::bytes).sum::<u64>();
    shared.iter().chain(images.values()).sum::<u64>() + own
}

type Buffers = Vec<Option<wgpu::Buffer>>;

/// Buffers for inputs, outputs and planned activations, and those of the states. The bytes are those of inputs and outputs.
fn allocate(device: &Device, memory: &Memory, state: Option<&State>, graph: &Graph, plan: &Plan, canaries: bool) -> Result<(Buffers, u64)> {
    let mut bytes = 0;
    let mut allocate = |label: &str, size: u64| {
        bytes += size;
        device.buffer(label, size, STORAGE)
    };
    let planned = if canaries { Vec::new() } else { memory.activations(device, &plan.sizes)? };
    let mut buffers = Vec::with_capacity(graph.tensors().len());
    for (info, planned_at) in graph.tensors().iter().zip(&plan.buffer) {
        buffers.push(match info.role {
            Role::Activation | Role::Output if canaries => {
                let buffer = allocate(&info.label, info.bytes() + SLOT)?;
                let mut words = vec![f32::NAN.to_bits(); info.bytes().div_ceil(4) as usize];
                words.resize(buffer.size() as usize / 4, CANARY);
                device.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&words));
                Some(buffer)
            }
            Role::Activation => planned_at.map(|at| planned[at].clone()),
            Role::Input | Role::Output => Some(allocate(&info.label, info.bytes())?),
            Role::State(index) => state.map(|state| state.buffer(index).clone()),
            _ => None,
        });
    }
    Ok((buffers, bytes))
}

/// All parameters of the line in one uniform buffer.
fn params_buffer(device: &Device, graph: &Graph) -> Result<wgpu::Buffer> {
    let mut bytes = vec![0; graph.line().len().max(1) * SLOT as usize];
    for (slot, dispatch) in bytes.chunks_mut(SLOT as usize).zip(graph.line()) {
        slot[..dispatch.params.len()].copy_from_slice(&dispatch.params);
    }
    let buffer = device.buffer("params", bytes.len() as u64, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST)?;
    device.queue.write_buffer(&buffer, 0, &bytes);
    Ok(buffer)
}

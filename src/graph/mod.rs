//! The recording: tensors, dispatches and the backward tape as plain data. Nothing here needs a device.
//!
//! A graph is in single-assignment form: an activation is written by one dispatch, and a gradient that gains a second
//! contribution becomes a new tensor (`dx = contribution + addend`). So gradients can be passed on without a copy, and the plan can
//! see from the line alone when a buffer is free. The exceptions are the accumulators of the loss and the arenas, named where they occur.

mod brackets;
mod checkpoint;
mod dispatch;
mod kernel;
mod limits;
mod parameters;
mod plan;
mod storage;
mod tensor;
mod traits;
pub mod wgsl;

use std::collections::HashMap;

use checkpoint::Segment;

pub use dispatch::{Access, Argument, Dispatch, Params, read, update, write};
pub use kernel::{Kernel, Reflection, StorageBinding};
pub use limits::MAX_ELEMENTS;
pub(crate) use limits::fitting;
pub use parameters::{Parameter, Parameters, Piece};
pub use plan::{Image, Plan};
pub use storage::IMAGE_ROW;
pub use tensor::{DType, Info, Role, Shape, Tensor};
pub use traits::{Matrix, Traits};

type Backward = Box<dyn FnOnce(&mut Graph, Tensor)>;

struct TapeEntry {
    output: Tensor,
    scope: String,
    backward: Backward,
}

/// A recording in progress, for one batch size and length.
pub struct Graph {
    traits: Traits,
    parameters: Parameters,
    tensors: Vec<Info>,
    line: Vec<Dispatch>,
    tape: Vec<TapeEntry>,
    gradients: HashMap<Tensor, Tensor>,
    arenas: Arenas,
    scope: String,
    dropout_sites: u32,
    training: bool,
    half: bool,
    /// Whether products may round their operands to f16.
    matrices: bool,
    checkpointing: bool,
    segments: Vec<Segment>,
}

/// The tensors of a model that outlive its programs: a flat arena for each thing that the trainable weights need, and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arenas {
    /// The trainable weights (arena).
    pub values: Tensor,
    /// Their gradients (arena).
    pub gradients: Tensor,
    /// Adam's running mean of the gradient (arena).
    pub first_moment: Tensor,
    /// Adam's running mean of its square (arena).
    pub second_moment: Tensor,
    /// The loss, the gradient norm, the counters and the loss scale; `shaders/shared/metrics.wgsl` has the fields.
    pub metrics: Tensor,
}

/// The 32-bit words of the metrics buffer.
pub const METRICS_WORDS: u32 = 9;

impl Graph {
    /// An empty recording for a model with these weights on a device with these traits. `training` enables dropout.
    pub fn new(traits: &Traits, parameters: &Parameters, training: bool) -> Self {
        let mut tensors: Vec<Info> = Vec::with_capacity(parameters.len() + 256);
        let arena_tensor = Tensor(parameters.len() as u32);
        for (_, p) in parameters.iter() {
            let role = p.arena_offset.map_or(Role::Frozen, |offset| Role::View { of: arena_tensor, offset });
            let needs_gradient = p.arena_offset.is_some();
            tensors.push(Info { label: p.name.clone(), shape: p.shape.clone(), dtype: p.dtype, role, needs_gradient });
        }
        let len = parameters.arena_len().max(1);
        let mut shared = |label: &str, len: u64| {
            tensors.push(Info {
                label: label.into(),
                shape: Shape::from([len as usize].as_slice()),
                dtype: DType::F32,
                role: Role::Shared,
                needs_gradient: false,
            });
            Tensor(tensors.len() as u32 - 1)
        };
        let arenas = Arenas {
            values: shared("arena.values", len),
            gradients: shared("arena.gradients", len),
            first_moment: shared("arena.first_moment", len),
            second_moment: shared("arena.second_moment", len),
            metrics: shared("metrics", METRICS_WORDS as u64),
        };
        Graph {
            traits: traits.clone(),
            parameters: parameters.clone(),
            tensors,
            line: Vec::new(),
            tape: Vec::new(),
            gradients: HashMap::new(),
            arenas,
            scope: String::new(),
            dropout_sites: 0,
            training,
            half: false,
            matrices: false,
            checkpointing: false,
            segments: Vec::new(),
        }
    }

    /// The traits of the device that this is recorded for.
    pub fn traits(&self) -> &Traits {
        &self.traits
    }

    /// Whether dropout is enabled in this recording.
    pub fn training(&self) -> bool {
        self.training
    }

    /// Makes activations f16 if the device supports it: two bytes each instead of four. Sums stay f32.
    pub fn set_half(&mut self, on: bool) {
        self.half = on && self.traits.half;
        self.matrices = self.half;
    }

    /// The cooperative matrices that products use, if the device has them and activations are f16, in [`Graph::in_single`] too.
    pub fn matrix(&self) -> Option<Matrix> {
        self.traits.matrix.filter(|_| self.matrices)
    }

    /// Records `f` with activations in f32.
    pub fn in_single<T>(&mut self, f: impl FnOnce(&mut Graph) -> T) -> T {
        let half = std::mem::replace(&mut self.half, false);
        let result = f(self);
        self.half = half;
        result
    }

    /// The tensors that outlive programs.
    pub fn arenas(&self) -> Arenas {
        self.arenas
    }

    /// The weights that the recording was made for.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// All tensors by index.
    pub fn tensors(&self) -> &[Info] {
        &self.tensors
    }

    /// The recorded line.
    pub fn line(&self) -> &[Dispatch] {
        &self.line
    }

    /// The information about a tensor.
    pub fn info(&self, tensor: Tensor) -> &Info {
        &self.tensors[tensor.index()]
    }

    /// A tensor's extents.
    pub fn shape(&self, tensor: Tensor) -> &Shape {
        &self.info(tensor).shape
    }

    /// The tensor whose memory `tensor` lies in, and the byte where it begins.
    pub fn root(&self, tensor: Tensor) -> (Tensor, u64) {
        match self.info(tensor).role {
            Role::View { of, offset } => {
                let (root, start) = self.root(of);
                (root, start + self.info(of).dtype.bytes(offset))
            }
            _ => (tensor, 0),
        }
    }

    /// Whether a gradient must reach `tensor`.
    pub fn needs_gradient(&self, tensor: Tensor) -> bool {
        self.info(tensor).needs_gradient
    }

    /// Records `f` with `name` as a prefix of every label.
    pub fn scoped<T>(&mut self, name: &str, f: impl FnOnce(&mut Graph) -> T) -> T {
        let outer = self.scope.len();
        self.scope += name;
        self.scope.push('.');
        let result = f(self);
        self.scope.truncate(outer);
        result
    }

    /// A tensor that the host writes before a run.
    pub fn input(&mut self, label: &str, shape: impl Into<Shape>, dtype: DType) -> Tensor {
        self.push(label, shape.into(), dtype, Role::Input)
    }

    /// An f32 tensor, initially zero, that dispatches can update and whose contents persist from run to run and from program to program.
    /// Graphs that declare the same labels and shapes in the same order can share one `gpu::State`.
    pub fn state(&mut self, label: &str, shape: impl Into<Shape>) -> Tensor {
        let before = self.states().count() as u32;
        self.push(label, shape.into(), DType::F32, Role::State(before))
    }

    /// The states in the order in which they were declared.
    pub fn states(&self) -> impl Iterator<Item = &Info> {
        self.tensors.iter().filter(|info| matches!(info.role, Role::State(_)))
    }

    /// A tensor written by a dispatch of this recording: f32, or f16 after [`Graph::set_half`].
    pub fn activation(&mut self, label: &str, shape: impl Into<Shape>) -> Tensor {
        let dtype = if self.half { DType::F16 } else { DType::F32 };
        self.push(label, shape.into(), dtype, Role::Activation)
    }

    /// An activation that is always f32: the residual stream, a statistic, a partial sum.
    pub fn single(&mut self, label: &str, shape: impl Into<Shape>) -> Tensor {
        self.push(label, shape.into(), DType::F32, Role::Activation)
    }

    /// An activation of the same shape and format as `like`.
    pub fn like(&mut self, label: &str, like: Tensor) -> Tensor {
        let Info { shape, dtype, .. } = self.info(like).clone();
        self.push(label, shape, dtype, Role::Activation)
    }

    /// A range of `of` as a separate tensor. `offset` is in elements and must be whole groups and a multiple of 256 bytes.
    pub fn view(&mut self, of: Tensor, label: &str, offset: u64, shape: impl Into<Shape>) -> Tensor {
        let (shape, dtype) = (shape.into(), self.info(of).dtype);
        let fits = offset + shape.len() <= self.shape(of).len();
        assert!(fits, "the view '{label}' {shape} at {offset} does not fit in '{}' {}", self.info(of).label, self.shape(of));
        let on_grid = offset.is_multiple_of(dtype.group_len()) && dtype.bytes(offset).is_multiple_of(256);
        assert!(on_grid, "the view '{label}' begins at element {offset}, off the 256-byte grid");
        self.push(label, shape, dtype, Role::View { of, offset })
    }

    fn push(&mut self, label: &str, shape: Shape, dtype: DType, role: Role) -> Tensor {
        let label = format!("{}{label}", self.scope);
        self.add(Info { label, shape, dtype, role, needs_gradient: false })
    }

    fn add(&mut self, info: Info) -> Tensor {
        self.tensors.push(info);
        Tensor(self.tensors.len() as u32 - 1)
    }

    /// Keeps the contents of an activation, or of the one that a view is a part of, for the host to read after a run.
    pub fn keep(&mut self, tensor: Tensor) {
        let root = self.root(tensor).0;
        let info = &mut self.tensors[root.index()];
        if info.role == Role::Activation {
            info.role = Role::Output;
        }
    }

    /// Lets a gradient reach an input, so that the host can read it.
    pub fn track(&mut self, input: Tensor) {
        self.tensors[input.index()].needs_gradient = true;
    }

    /// A number for the next dropout of the recording: masks of different places must differ.
    pub fn dropout_site(&mut self) -> u32 {
        self.dropout_sites += 1;
        self.dropout_sites
    }

    /// Records one launch of `kernel`, after comparing parameters and arguments with what the WGSL declares. If there are more
    /// `workgroups` along a dimension than the device allows, they are folded; in a one-dimensional grid, [count, 1, 1], the kernel must
    /// then expect extra ones past the end.
    ///
    /// # Panics
    /// If they differ, which is a bug in the op.
    pub fn dispatch<P: Params>(&mut self, mut kernel: Kernel, params: P, arguments: impl Into<Vec<Argument>>, workgroups: [u32; 3]) {
        let arguments = arguments.into();
        let mut reflection = kernel.reflect();
        for (binding, argument) in reflection.storage.iter().zip(&arguments) {
            let info = self.info(argument.tensor);
            if info.dtype == DType::F16 && self.info(self.root(argument.tensor).0).role != Role::Frozen {
                kernel.half |= 1 << binding.binding;
            }
        }
        if kernel.half != 0 {
            reflection = kernel.reflect();
        }
        let label = format!("{}{kernel}", self.scope);
        let declared: Vec<_> = reflection.params.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        assert_eq!(declared, P::FIELDS, "{label}: Params in the WGSL (left) and in Rust (right)");
        let shown = |a: &Argument| format!("{} {}", self.info(a.tensor).label, self.shape(a.tensor));
        let all = || arguments.iter().map(shown).collect::<Vec<_>>().join(", ");
        assert_eq!(reflection.storage.len(), arguments.len(), "{label}: storage buffers in the WGSL (left), arguments (right): {}", all());
        for (binding, argument) in reflection.storage.iter().zip(&arguments) {
            let writes = argument.access != Access::Read;
            assert_eq!(binding.writable, writes, "{label}: '{}' is bound to {}", binding.name, shown(argument));
            let frozen = self.info(self.root(argument.tensor).0).role == Role::Frozen;
            assert!(!(writes && frozen), "{label}: writes the frozen weight {}", shown(argument));
        }
        assert!(arguments.len() <= 8, "{label}: {} storage buffers exceed the 8 that every device supports: {}", arguments.len(), all());
        let moved = |(i, a): (usize, &Argument)| match arguments[..i].contains(a) {
            true => 0,
            false => self.info(a.tensor).bytes() * (1 + (a.access == Access::Update) as u64),
        };
        let bytes = arguments.iter().enumerate().map(moved).sum();
        let (kernel, workgroups) = kernel.within(workgroups, self.traits.max_workgroups);
        self.line.push(Dispatch {
            label,
            kernel,
            params: bytemuck::bytes_of(&params).to_vec(),
            arguments,
            workgroups,
            operations: 0,
            bytes,
        });
    }

    /// Sets how many floating-point operations the dispatch just recorded takes.
    pub fn operations(&mut self, operations: u64) {
        self.line.last_mut().expect("a dispatch was recorded").operations = operations;
    }

    /// Sets how many bytes the dispatch just recorded reads and writes, if that differs from the size of its tensors.
    pub fn moves(&mut self, bytes: u64) {
        self.line.last_mut().expect("a dispatch was recorded").bytes = bytes;
    }

    /// Pushes the backward pass of `output` onto the tape if a gradient must reach any of `inputs`. The closure gets the gradient of
    /// `output`.
    pub fn on_backward(&mut self, output: Tensor, inputs: &[Tensor], backward: impl FnOnce(&mut Graph, Tensor) + 'static) {
        if inputs.iter().any(|&t| self.needs_gradient(t)) {
            self.tensors[output.index()].needs_gradient = true;
            self.tape.push(TapeEntry { output, scope: self.scope.clone(), backward: Box::new(backward) });
        }
    }

    /// Adds a contribution to the gradient of an activation, if it needs one. `f` gets the sum so far, if any, and returns the new sum.
    pub fn contribute(&mut self, tensor: Tensor, f: impl FnOnce(&mut Graph, Option<Tensor>) -> Tensor) {
        if self.needs_gradient(tensor) {
            let before = self.gradients.get(&tensor).copied();
            let sum = f(self, before);
            self.gradients.insert(tensor, sum);
        }
    }

    /// The gradient of a trainable weight: a range of the gradient arena, to be added to. The trainer clears the arena before each step,
    /// so that several batches can add up. `None` for a frozen weight. For a view of a weight, that part of the gradient.
    pub fn weight_gradient(&mut self, weight: Tensor) -> Option<Tensor> {
        if weight.index() >= self.parameters.len()
            && let Role::View { of, offset } = self.info(weight).role
        {
            let whole = self.weight_gradient(of)?;
            let shape = self.shape(weight).clone();
            return Some(self.view(whole, "slice", offset, shape));
        }
        let parameter = self.parameters.get(weight)?;
        let (offset, shape, name) = (parameter.arena_offset?, parameter.shape.clone(), &parameter.name);
        let role = Role::View { of: self.arenas.gradients, offset };
        Some(self.add(Info { label: format!("{name}.gradient"), shape, dtype: DType::F32, role, needs_gradient: false }))
    }

    /// The gradient that reached `tensor`, after [`Graph::backward`].
    pub fn gradient(&self, tensor: Tensor) -> Option<Tensor> {
        self.gradients.get(&tensor).copied()
    }

    /// Records the backward pass: calls every op's closure in reverse order, beginning with `dy` as the gradient of `y`.
    pub fn backward(&mut self, y: Tensor, dy: Tensor) {
        self.gradients.insert(y, dy);
        let end = self.line.len();
        while !self.tape.is_empty() {
            match self.segments.pop_if(|segment| segment.tape.end == self.tape.len()) {
                Some(segment) => self.backward_of_segment(&segment, end),
                None => self.backward_of_last(),
            }
        }
    }

    /// Takes the last op off the tape and records its backward pass, if a gradient has reached it.
    fn backward_of_last(&mut self) {
        let entry = self.tape.pop().expect("the tape has an op");
        if let Some(&dy) = self.gradients.get(&entry.output) {
            let outer = std::mem::replace(&mut self.scope, entry.scope);
            (entry.backward)(self, dy);
            self.scope = outer;
        }
    }

    /// Folds the workgroups of every dispatch that has more than one, as if the device allowed few along a dimension; for tests.
    #[doc(hidden)]
    pub fn fold(&mut self) {
        let whole = |dispatch: &&mut Dispatch| dispatch.kernel.folded.is_none() && dispatch.workgroups != [1; 3];
        for dispatch in self.line.iter_mut().filter(whole) {
            (dispatch.kernel, dispatch.workgroups) = dispatch.kernel.clone().fold(dispatch.workgroups, 3);
        }
    }

    /// The plan of which activations share a buffer.
    pub fn plan(&self) -> Plan {
        Plan::of(self)
    }
}

//! The list of a model's weights, as plain data: which are trainable, which are frozen, and where each trainable one is in the arenas.

use super::tensor::{DType, Shape, Tensor};

/// One weight of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name, for labels: the joined names of its pieces.
    pub name: String,
    /// The file tensors that it consists of, concatenated along the first axis: usually one.
    pub pieces: Vec<Piece>,
    /// Its shape, the contiguous axis last.
    pub shape: Shape,
    /// The format of its bytes on the device; trainable weights are always [`DType::F32`].
    pub dtype: DType,
    /// The first element of its range in the arenas, for a trainable weight; `None` for a frozen one.
    pub arena_offset: Option<u64>,
}

/// A tensor in a file that is part of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The tensor's name in its file.
    pub name: String,
    /// The tensor's shape in its file, the contiguous axis last.
    pub shape: Shape,
}

/// All weights of a model. A [`Tensor`] returned by [`Parameters::add`] names the same weight in every graph created from the list.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    list: Vec<Parameter>,
    arena_len: u64,
}

/// Ranges of an arena begin at multiples of this many elements, so that each can be bound (256 bytes is the strictest alignment).
const ARENA_ALIGNMENT: u64 = 64;

impl Parameters {
    /// Adds a weight. A trainable weight gets a range of the arenas and is stored as f32, regardless of `dtype`.
    pub fn add(&mut self, name: impl Into<String>, shape: impl Into<Shape>, dtype: DType, trainable: bool) -> Tensor {
        self.add_stack(vec![Piece { name: name.into(), shape: shape.into() }], dtype, trainable)
    }

    /// Adds a weight made of pieces that are concatenated along the first axis. All other axes must agree.
    ///
    /// # Panics
    /// If there are no pieces, or their axes disagree.
    pub fn add_stack(&mut self, pieces: Vec<Piece>, dtype: DType, trainable: bool) -> Tensor {
        let name = pieces.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(" + ");
        let shape = pieces.iter().skip(1).fold(pieces[0].shape.clone(), |all, piece| all.stacked(&piece.shape));
        let arena_offset = trainable.then_some(self.arena_len);
        if trainable {
            self.arena_len += shape.len().next_multiple_of(ARENA_ALIGNMENT);
        }
        let dtype = if trainable { DType::F32 } else { dtype };
        self.list.push(Parameter { name, pieces, shape, dtype, arena_offset });
        Tensor(self.list.len() as u32 - 1)
    }

    /// The weights, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (Tensor, &Parameter)> {
        self.list.iter().enumerate().map(|(i, p)| (Tensor(i as u32), p))
    }

    /// The weight that `tensor` names, if any.
    pub fn get(&self, tensor: Tensor) -> Option<&Parameter> {
        self.list.get(tensor.index())
    }

    /// The number of weights (tensors, not elements).
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True for a list without weights.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The number of elements in one arena, including padding.
    pub fn arena_len(&self) -> u64 {
        self.arena_len
    }

    /// The total number of elements in all weights.
    pub fn total(&self) -> u64 {
        self.list.iter().map(|p| p.shape.len()).sum()
    }

    /// The number of trainable elements.
    pub fn trainable(&self) -> u64 {
        self.list.iter().filter(|p| p.arena_offset.is_some()).map(|p| p.shape.len()).sum()
    }
}

impl std::ops::Index<Tensor> for Parameters {
    type Output = Parameter;
    fn index(&self, tensor: Tensor) -> &Parameter {
        &self.list[tensor.0 as usize]
    }
}

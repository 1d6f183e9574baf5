//! The list of a model's weights, as plain data: which train, which are frozen, and where each trainable one lies in the arenas.

use super::tensor::{DType, Shape, Tensor};

/// One weight of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name, for labels: that of its piece, or of its pieces joined.
    pub name: String,
    /// The tensors of files that it is made of, one behind the other along the first axis: usually one.
    pub pieces: Vec<Piece>,
    /// Its shape, the contiguous axis last.
    pub shape: Shape,
    /// The format of its bytes on the device; trainable weights are always [`DType::F32`].
    pub dtype: DType,
    /// The first element of its range in the arenas, for a trainable weight; `None` for a frozen one.
    pub arena_offset: Option<u64>,
}

/// A tensor of a file as a part of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The name that the tensor has in its file.
    pub name: String,
    /// Its shape there, the contiguous axis last.
    pub shape: Shape,
}

/// All weights of a model. A [`Tensor`] that [`Parameters::add`] gave names the same weight in every graph made from the list.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    list: Vec<Parameter>,
    arena_len: u64,
}

/// Ranges of an arena begin at multiples of this many elements, so that each can be bound (256 bytes is the strictest alignment).
const ARENA_ALIGNMENT: u64 = 64;

impl Parameters {
    /// Adds a weight. A trainable one gets a range of the arenas and is stored as f32 whatever `dtype` says of its file.
    pub fn add(&mut self, name: impl Into<String>, shape: impl Into<Shape>, dtype: DType, trainable: bool) -> Tensor {
        self.add_stack(vec![Piece { name: name.into(), shape: shape.into() }], dtype, trainable)
    }

    /// Adds a weight made of tensors that agree in all axes but the first, along which they follow each other.
    ///
    /// # Panics
    /// If there is no piece, or they disagree.
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

    /// The weights in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (Tensor, &Parameter)> {
        self.list.iter().enumerate().map(|(i, p)| (Tensor(i as u32), p))
    }

    /// The weight that `tensor` names, if it names one.
    pub fn get(&self, tensor: Tensor) -> Option<&Parameter> {
        self.list.get(tensor.index())
    }

    /// How many weights (tensors, not numbers) there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True for a list with no weight.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The elements of one arena, padding included.
    pub fn arena_len(&self) -> u64 {
        self.arena_len
    }

    /// The numbers in all weights.
    pub fn total(&self) -> u64 {
        self.list.iter().map(|p| p.shape.len()).sum()
    }

    /// The numbers in the weights that train.
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

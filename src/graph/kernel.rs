//! A kernel by name, and what naga reads from its WGSL: bindings, workgroup size and parameter layout. None of this is repeated in Rust.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use super::wgsl::{self, Constant};

/// An entry point of a shader file, specialised on constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The stem of the file in `shaders/`.
    pub file: &'static str,
    /// The entry point.
    pub entry: &'static str,
    /// Values of the file's `override`s and words that differ from the defaults.
    pub constants: Vec<(&'static str, Constant)>,
    /// Bit b is set if the tensor at binding b is f16.
    pub half: u32,
    /// The workgroups along x, y, z if they are numbered consecutively, because a dimension has more than the device allows or because
    /// several dispatches share them; [1, 1, 1] for a one-dimensional grid.
    pub folded: Option<[u32; 3]>,
}

impl Kernel {
    /// The entry point `entry` of `shaders/<file>.wgsl` with every constant at its default.
    pub fn new(file: &'static str, entry: &'static str) -> Self {
        Kernel { file, entry, constants: Vec::new(), half: 0, folded: None }
    }

    /// The same kernel with one constant set.
    pub fn with(mut self, name: &'static str, value: impl Into<Constant>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// The kernel and the grid that launch these workgroups on a device that allows `most` along a dimension: as they are, or folded into
    /// x and y. A grid that still exceeds `most` has more workgroups than the device can launch at all.
    pub(super) fn within(self, workgroups: [u32; 3], most: u32) -> (Kernel, [u32; 3]) {
        let total: u128 = workgroups.iter().map(|&count| u128::from(count)).product();
        let foldable = total <= u128::from(most).pow(2).min(u32::MAX.into());
        if !foldable || workgroups.iter().all(|&count| count <= most) {
            return (self, workgroups);
        }
        self.fold(workgroups, (total as u32).div_ceil(most))
    }

    /// The kernel and the grid that launch these workgroups, fewer than 2^32, in `down` rows.
    pub(super) fn fold(self, workgroups: [u32; 3], down: u32) -> (Kernel, [u32; 3]) {
        let across = workgroups.iter().product::<u32>().div_ceil(down);
        (self.in_parts(workgroups), [across, down, 1])
    }

    /// The kernel that numbers these workgroups consecutively, so that several dispatches can share them. Each begins with workgroup
    /// `first` of its `Params`.
    pub(crate) fn in_parts(mut self, workgroups: [u32; 3]) -> Kernel {
        self.folded = Some(if workgroups[1..] == [1, 1] { [1; 3] } else { workgroups });
        self
    }

    /// The WGSL of the whole file for these constants.
    pub fn wgsl(&self) -> String {
        wgsl::expand(self.file, &self.constants, self.half, self.folded)
    }

    /// What the WGSL declares for this entry point, folded or not.
    ///
    /// # Panics
    /// If the WGSL does not parse or validate, or lacks the entry point: a bug in the project's own shaders.
    pub fn reflect(&self) -> Arc<Reflection> {
        type Key = (&'static str, Vec<(&'static str, Constant)>, u32);
        static CACHE: LazyLock<Mutex<HashMap<Key, Arc<Module>>>> = LazyLock::new(Default::default);
        let key = (self.file, self.constants.clone(), self.half);
        let cached = CACHE.lock().expect("no panic while reflecting").get(&key).cloned();
        let module = cached.unwrap_or_else(|| {
            let module = Arc::new(Module::read(self));
            CACHE.lock().expect("no panic while reflecting").insert(key, module.clone());
            module
        });
        let found = module.entries.iter().find(|(name, _)| name == self.entry);
        found.unwrap_or_else(|| panic!("shader '{}' has no entry point '{}'", self.file, self.entry)).1.clone()
    }

    /// The value of a `const` of the shader, such as the rows that one workgroup covers.
    ///
    /// # Panics
    /// If the shader has no `u32` constant of this name.
    pub fn constant(&self, name: &str) -> u32 {
        *self.reflect().constants.get(name).unwrap_or_else(|| panic!("shader '{}' has no constant '{name}'", self.file))
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.file, self.entry)
    }
}

impl Reflection {
    /// The images, with the numbers of the arguments copied to them.
    pub fn images(&self) -> impl Iterator<Item = (usize, naga::StorageFormat)> + '_ {
        self.storage.iter().enumerate().filter_map(|(number, binding)| Some((number, binding.texel?)))
    }
}

/// What one entry point declares.
#[derive(Debug)]
pub struct Reflection {
    /// Invocations of a workgroup along x, y, z.
    pub workgroup_size: [u32; 3],
    /// The storage buffers of group 0 that the entry point uses, and the images from which it reads tensors, sorted by binding number.
    pub storage: Vec<StorageBinding>,
    /// The fields of the uniform `params` (group 0, binding 0) with their WGSL types, if the entry point uses it.
    pub params: Vec<(String, String)>,
    /// Whether it reads the uniform `step` (group 1, binding 0).
    pub uses_step: bool,
    /// The module's `u32` constants.
    pub constants: Arc<HashMap<String, u32>>,
}

/// A storage buffer as declared in the shader, or an image that replaces it.
#[derive(Debug)]
pub struct StorageBinding {
    /// Its binding number in group 0.
    pub binding: u32,
    /// Its name in the WGSL.
    pub name: String,
    /// Whether it is declared `read_write`.
    pub writable: bool,
    /// The texel format, if it is an image, to which the tensor is copied before the kernel runs.
    pub texel: Option<naga::StorageFormat>,
}

struct Module {
    entries: Vec<(String, Arc<Reflection>)>,
}

impl Module {
    fn read(kernel: &Kernel) -> Module {
        let source = wgsl::expand(kernel.file, &kernel.constants, kernel.half, None);
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|e| panic!("the shader {} does not parse: {}", kernel.file, e.emit_to_string(&source)));
        let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
        let info = validator
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all())
            .validate(&module)
            .unwrap_or_else(|e| panic!("the shader {} is not valid: {}", kernel.file, e.emit_to_string(&source)));
        let constants = Arc::new(constants(&module));
        let entries = module.entry_points.iter().enumerate().map(|(i, entry)| {
            let used = info.get_entry_point(i);
            let mut storage = Vec::new();
            let (mut params, mut uses_step) = (Vec::new(), false);
            for (handle, global) in module.global_variables.iter() {
                if used[handle].is_empty() {
                    continue;
                }
                let Some(place) = &global.binding else { continue };
                let mut tensor = |writable, texel| {
                    let name = global.name.clone().unwrap_or_default();
                    storage.push(StorageBinding { binding: place.binding, name, writable, texel });
                };
                match global.space {
                    naga::AddressSpace::Storage { access } => tensor(access.contains(naga::StorageAccess::STORE), None),
                    naga::AddressSpace::Handle => match module.types[global.ty].inner {
                        naga::TypeInner::Image { class: naga::ImageClass::Storage { format, .. }, .. } => tensor(false, Some(format)),
                        _ => panic!("the shader {} binds '{:?}', which is not a tensor", kernel.file, global.name),
                    },
                    naga::AddressSpace::Uniform if place.group == 0 => params = fields(&module, global.ty),
                    naga::AddressSpace::Uniform => uses_step = true,
                    _ => {}
                }
            }
            storage.sort_by_key(|b| b.binding);
            let workgroup_size = entry.workgroup_size;
            (entry.name.clone(), Arc::new(Reflection { workgroup_size, storage, params, uses_step, constants: constants.clone() }))
        });
        Module { entries: entries.collect() }
    }
}

fn fields(module: &naga::Module, ty: naga::Handle<naga::Type>) -> Vec<(String, String)> {
    let naga::TypeInner::Struct { members, .. } = &module.types[ty].inner else { return Vec::new() };
    let word = |ty| match module.types[ty].inner {
        naga::TypeInner::Scalar(naga::Scalar { kind: naga::ScalarKind::Uint, width: 4 }) => "u32",
        naga::TypeInner::Scalar(naga::Scalar { kind: naga::ScalarKind::Float, width: 4 }) => "f32",
        _ => "neither u32 nor f32",
    };
    members.iter().map(|m| (m.name.clone().unwrap_or_default(), word(m.ty).to_string())).collect()
}

fn constants(module: &naga::Module) -> HashMap<String, u32> {
    let value = |c: &naga::Constant| match module.global_expressions[c.init] {
        naga::Expression::Literal(naga::Literal::U32(n)) => Some((c.name.clone()?, n)),
        _ => None,
    };
    module.constants.iter().filter_map(|(_, c)| value(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workgroups_are_folded_where_they_have_to_be() {
        let within = |workgroups, most| {
            let (kernel, grid) = Kernel::new("norm", "forward").within(workgroups, most);
            (kernel.folded, grid)
        };
        assert_eq!(within([65_535, 3, 1], 65_535), (None, [65_535, 3, 1]));
        assert_eq!(within([65_536, 1, 1], 65_535), (Some([1; 3]), [32_768, 2, 1]));
        assert_eq!(within([2, 9, 65_536], 65_535), (Some([2, 9, 65_536]), [62_087, 19, 1]));
        // What no device can launch stays as it is, for `check_limits` to find.
        assert_eq!(within([u32::MAX; 3], 65_535), (None, [u32::MAX; 3]));
        assert_eq!(within([50, 50, 1], 7), (None, [50, 50, 1]));
    }
}

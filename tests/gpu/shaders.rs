//! Every shader validates, and naga translates it for Vulkan, Metal, DX12 and OpenGL; this needs no device.

use graftling::graph::Kernel;
use graftling::graph::wgsl::FILES;
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Block, Expression, Handle, Statement, TypeInner};

/// All formats of frozen weights.
const FORMATS: [&str; 16] =
    ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4"];

/// Every file with entry points, in each variant that differs in more than constants.
fn kernels() -> Vec<Kernel> {
    let mut all = Vec::new();
    for (file, text) in FILES {
        if !text.contains("@compute") {
            continue;
        }
        let base = Kernel::new(file, "");
        match *file {
            "matmul_any" | "matmul_cpu" | "matmul_gpu" | "matmul_matrix" | "matmul_row" => {
                for format in FORMATS {
                    all.push(base.clone().with("FORMAT", format).with("EPILOGUE", "plain"));
                }
                all.push(base.clone().with("FORMAT", "f32").with("EPILOGUE", "act").with("ACTIVATION", 1));
                if ["matmul_gpu", "matmul_matrix"].contains(file) {
                    all.extend(["gated", "rope"].map(|epilogue| base.clone().with("FORMAT", "f32").with("EPILOGUE", epilogue)));
                    let derivative = base.clone().with("FORMAT", "f32").with("EPILOGUE", "derivative").with("VECTOR", 4);
                    all.extend([derivative.clone(), derivative.with("GATED", 1)]);
                }
                if *file == "matmul_matrix" {
                    all.push(base.with("FORMAT", "q4_k").with("EPILOGUE", "plain").with("SIZE", 8).with("REGIONS", 2).with("SHRINK", 1));
                }
            }
            "embedding" => {
                for format in FORMATS {
                    all.push(base.clone().with("FORMAT", format));
                }
                all.push(base.clone().with("FORMAT", "f32").with("POSITIONS", 1));
                all.push(base.with("FORMAT", "f32").with("POSITIONS", 1).with("START", 1));
            }
            "attention" => {
                all.push(base.clone().with("DROPOUT", 1));
                let grouped = base.with("HEAD", 128).with("PART", 2).with("SHARED", 1);
                all.extend([grouped.clone(), grouped.clone().with("ROTARY", 64), grouped.with("ROTARY", 128).with("ADJACENT", 1)]);
            }
            "attention_cpu" => {
                all.extend([base.clone(), base.with("HEAD", 20).with("TILE", 8).with("DROPOUT", 1)]);
            }
            "adapter" => {
                all.push(base.clone().with("DROPOUT", 1).with("VECTOR", 4));
                all.push(base.with("VECTOR", 4).with("ALIGNED", 0).with("WITH_INPUT_GRADIENT", 0).with("KEEP", 0));
            }
            "adapter_weights" => {
                all.extend([base.clone().with("DROPOUT", 1), base.with("ALIGNED", 0).with("BIASES", 0)]);
            }
            "lora" => all.extend([base.clone().with("ALIGNED", 0), base.with("VECTOR", 4).with("SHARED", 32).with("ACCUMULATE", 1)]),
            "norm" => {
                all.extend([base.clone(), base.clone().with("ROW_THREADS", 32).with("SUM", 1)]);
                all.extend([base.clone().with("RMS", 1).with("SUM", 1), base.clone().with("RMS", 1).with("ROW_THREADS", 32)]);
                all.push(base.with("VECTOR", 4).with("SUM", 1));
            }
            "rope" => {
                all.extend([base.clone(), base.clone().with("ADJACENT", 1)]);
                all.extend([base.clone().with("VECTOR", 4), base.with("VECTOR", 4).with("ADJACENT", 1)]);
            }
            "loss" => all.extend([base.clone(), base.with("ROW_THREADS", 32)]),
            "head_norm" => all.extend([base.clone(), base.clone().with("ROW_THREADS", 32), base.with("VECTOR", 4)]),
            "reduce" => all.extend([base.clone(), base.with("VECTOR", 4).with("ACCUMULATE", 1)]),
            "pointwise_loss" => all.extend([base.clone(), base.with("LOGISTIC", 1)]),
            "pooling" => all.extend([base.clone(), base.clone().with("POOLING", 1).with("VECTOR", 4), base.with("POOLING", 2)]),
            "scale" => all.extend([base.clone(), base.clone().with("LEARNED", 0), base.with("VECTOR", 4)]),
            "fusion" => all.extend([base.clone(), base.with("VECTOR", 4).with("ROW_THREADS", 32)]),
            "halves" => all.extend([base.clone(), base.with("VECTOR", 4)]),
            "elementwise" | "gated" => {
                all.push(base.clone());
                all.extend((0..11).map(|kind| base.clone().with("VECTOR", 4).with("ACTIVATION", kind)));
            }
            _ => all.push(base),
        }
    }
    all
}

/// WGSL requires the directive where a file uses subgroups, though naga does not.
#[test]
fn files_with_subgroups_enable_them() {
    for (file, text) in FILES {
        let uses = ["subgroupBroadcast", "subgroupAdd", "subgroupShuffle", "subgroup_size", "subgroup_invocation_id"];
        let code: String = text.lines().filter_map(|line| line.split("//").next()).collect();
        let used = uses.iter().any(|word| code.contains(word));
        assert_eq!(used, text.lines().any(|line| line == "enable subgroups;"), "{file}");
    }
}

/// A store to one component of a vector can touch the whole vector (gpuweb#2112), so two invocations that write different components race,
/// though no Vulkan device shows it.
#[test]
fn no_shader_stores_parts_of_shared_vectors() {
    for kernel in kernels() {
        let module = naga::front::wgsl::parse_str(&kernel.wgsl()).expect("a shader that other tests have parsed");
        let info = Validator::new(ValidationFlags::all(), Capabilities::all())
            .subgroup_stages(ShaderStages::COMPUTE)
            .subgroup_operations(SubgroupOperationSet::all())
            .validate(&module)
            .expect("a valid shader");
        let entries = module.entry_points.iter().enumerate().map(|(i, entry)| (&entry.function, info.get_entry_point(i)));
        let functions = module.functions.iter().map(|(handle, function)| (function, &info[handle]));
        for (function, info) in entries.chain(functions) {
            stores(&function.body, &mut |pointer| {
                let component = match *info[pointer].ty.inner_with(&module.types) {
                    TypeInner::ValuePointer { size: None, space, .. } => {
                        matches!(space, AddressSpace::WorkGroup | AddressSpace::Storage { .. })
                    }
                    _ => false,
                };
                assert!(
                    !component,
                    "{} {:?}: a store to one component of a shared vector in {:?}",
                    kernel.file, kernel.constants, function.name
                );
            });
        }
    }
}

/// Calls `each` with the pointer of every store in a block.
fn stores(block: &Block, each: &mut dyn FnMut(Handle<Expression>)) {
    for statement in block {
        match statement {
            Statement::Store { pointer, .. } => each(*pointer),
            Statement::Block(block) => stores(block, each),
            Statement::If { accept, reject, .. } => [accept, reject].into_iter().for_each(|block| stores(block, each)),
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| stores(&case.body, each)),
            Statement::Loop { body, continuing, .. } => [body, continuing].into_iter().for_each(|block| stores(block, each)),
            _ => {}
        }
    }
}

/// Each kernel as it is, and with all its tensors in f16.
#[test]
fn every_shader_translates_to_every_backend() {
    for kernel in kernels().into_iter().flat_map(|kernel| [Kernel { half: u32::MAX, ..kernel.clone() }, kernel]) {
        let source = kernel.wgsl();
        let name = format!("{} {:?}", kernel.file, kernel.constants);
        let module = naga::front::wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source)));
        let info = Validator::new(
            ValidationFlags::all(),
            Capabilities::SUBGROUP
                | Capabilities::SHADER_FLOAT16
                | Capabilities::SHADER_FLOAT16_IN_FLOAT32
                | Capabilities::COOPERATIVE_MATRIX,
        )
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source)));

        naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options { lang_version: (1, 3), ..Default::default() }, None)
            .unwrap_or_else(|e| panic!("{name} to SPIR-V: {e}"));
        // naga writes cooperative matrices for Vulkan, and those of 8 × 8 for Metal; no device of another kind offers them.
        if kernel.file == "matmul_matrix" {
            continue;
        }
        let options = naga::back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        naga::back::msl::write_string(&module, &info, &options, &Default::default()).unwrap_or_else(|e| panic!("{name} to MSL: {e}"));
        let options = naga::back::hlsl::Options {
            shader_model: naga::back::hlsl::ShaderModel::V6_0,
            fake_missing_bindings: true,
            ..Default::default()
        };
        let pipeline = naga::back::hlsl::PipelineOptions::default();
        naga::back::hlsl::Writer::new(&mut String::new(), &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{name} to HLSL: {e}"));
        // OpenGL supports neither subgroups nor 16-bit floats here; devices there use the variants without them.
        if source.contains("subgroupBroadcast") || kernel.half != 0 {
            continue;
        }
        for entry in &module.entry_points {
            let options = naga::back::glsl::Options { version: naga::back::glsl::Version::Desktop(430), ..Default::default() };
            let pipeline = naga::back::glsl::PipelineOptions {
                shader_stage: naga::ShaderStage::Compute,
                entry_point: entry.name.clone(),
                multiview: None,
            };
            naga::back::glsl::Writer::new(
                &mut String::new(),
                &module,
                &info,
                &options,
                &pipeline,
                naga::proc::BoundsCheckPolicies::default(),
            )
            .and_then(|mut writer| writer.write())
            .unwrap_or_else(|e| panic!("{name} to GLSL: {e}"));
        }
    }
}

//! What source is emitted for. Each target says what CubeCL 0.10's own runtime says of such a device when it finds one, as far as kernels
//! and the choice between them depend on it.

use std::fmt::Debug;

use cubecl::ir::features::{AtomicUsage, Plane, Tma, TypeUsage};
use cubecl::ir::{
    AddressType, BarrierLevel, ContiguousElements, DeviceProperties, ElemType, FloatKind, HardwareProperties,
    IntKind, MatrixLayout, MemoryDeviceProperties, MmaProperties, OpaqueType, SemanticType, StorageType,
    TargetProperties, Type, UIntKind, VectorSize,
};
use cubecl::profile::TimingMethod;
use cubecl::{Compiler, VulkanCompilationOptions, WgpuCompilationOptions};
use cubecl_cpp::cuda::CudaDialect;
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::{CudaWmmaCompiler, contiguous_elements_cuda};
use cubecl_cpp::hip::HipDialect;
use cubecl_cpp::hip::arch::AMDArchitecture;
use cubecl_cpp::hip::mma::{WmmaIntrinsicCompiler, contiguous_elements_rdna3};
use cubecl_cpp::metal::MslDialect;
use cubecl_cpp::metal::arch::MetalArchitecture;
use cubecl_cpp::shared::{
    Architecture, CompilationOptions, ComputeKernel, CppCompiler, CppSupportedFeatures,
    register_mma_features, register_scaled_mma_features, register_wmma_features,
};
use cubecl_cpp::{DialectWmmaCompiler, register_supported_types};
use cubecl_spirv::SpirvCompiler;
use cubecl_wgpu::WgslCompiler;

use super::wgsl;

/// A language, and the device that it is written for.
pub(super) trait Target: Clone + Debug + Send + Sync + 'static {
    type Compiler: Compiler + Default;

    /// As in the manifest, and the folder of its sources.
    const NAME: &'static str;
    /// Of a source file.
    const EXTENSION: &'static str;
    /// Whether the runtime passes the lengths of arrays to kernels.
    const ARRAY_LENGTHS: bool = false;

    fn device() -> DeviceProperties;

    /// How matrix instructions lay out their registers; nothing where there are none.
    fn matrices() -> TargetProperties {
        TargetProperties { mma: MmaProperties::default() }
    }

    fn options() -> <Self::Compiler as Compiler>::CompilationOptions;

    /// Shared memory of a cube.
    fn shared_bytes(repr: &<Self::Compiler as Compiler>::Representation) -> usize;

    /// What a driver is given.
    fn code(repr: &<Self::Compiler as Compiler>::Representation, text: String) -> Vec<u8> {
        let _ = repr;
        text.into_bytes()
    }

    /// Validates code here, where that needs no tool: the name of what did it.
    fn check(code: &[u8]) -> Result<Option<&'static str>, String> {
        let _ = code;
        Ok(None)
    }
}

/// CUDA C++ for compute capability 9.0.
#[derive(Clone, Debug)]
pub(super) struct Cuda;
/// HIP for RDNA (gfx1100).
#[derive(Clone, Debug)]
pub(super) struct HipWave32;
/// HIP for CDNA (gfx90a and gfx942, for which CubeCL emits the same).
#[derive(Clone, Debug)]
pub(super) struct HipWave64;
/// WGSL with 16-bit floats and subgroups.
#[derive(Clone, Debug)]
pub(super) struct Wgsl;
/// SPIR-V for Vulkan 1.3.
#[derive(Clone, Debug)]
pub(super) struct SpirV;
/// Metal 3.
#[derive(Clone, Debug)]
pub(super) struct Msl;

/// Half of the numbers are the same wherever compute runs.
const HARDWARE: HardwareProperties = HardwareProperties {
    load_width: 128,
    plane_size_min: 32,
    plane_size_max: 32,
    max_bindings: 1024,
    max_shared_memory_size: 32 << 10,
    max_cube_count: (65_535, 65_535, 65_535),
    max_units_per_cube: 1024,
    max_cube_dim: (1024, 1024, 64),
    num_streaming_multiprocessors: None,
    num_tensor_cores: None,
    min_tensor_cores_dim: None,
    num_cpu_cores: None,
    max_vector_size: 4,
};

fn properties(hardware: HardwareProperties) -> DeviceProperties {
    let memory = MemoryDeviceProperties { max_page_size: 2 << 30, alignment: 256 };
    DeviceProperties::new(Default::default(), memory, hardware, TimingMethod::System)
}

impl Target for Cuda {
    type Compiler = CppCompiler<CudaDialect<CudaWmmaCompiler>>;

    const NAME: &'static str = "cuda";
    const EXTENSION: &'static str = "cu";
    const ARRAY_LENGTHS: bool = true;

    fn device() -> DeviceProperties {
        let mut device = properties(HardwareProperties {
            max_shared_memory_size: 227 << 10,
            max_cube_count: (i32::MAX as u32, 65_535, 65_535),
            num_streaming_multiprocessors: Some(132),
            num_tensor_cores: Some(4),
            min_tensor_cores_dim: Some(8),
            max_vector_size: VectorSize::MAX,
            ..HARDWARE
        });
        register_supported_types(&mut device);
        let f16 = ElemType::Float(FloatKind::F16);
        let bf16 = ElemType::Float(FloatKind::BF16);
        let f32 = ElemType::Float(FloatKind::F32);
        let stored = TypeUsage::Conversion | TypeUsage::Buffer;
        device.register_type_usage(ElemType::Float(FloatKind::TF32), TypeUsage::Conversion);
        device.register_type_usage(ElemType::Float(FloatKind::E4M3), stored);
        device.register_type_usage(ElemType::Float(FloatKind::E5M2), stored);
        let adds = AtomicUsage::Add | AtomicUsage::LoadStore;
        for (elem, sizes) in [(ElemType::Float(FloatKind::F64), &[1][..]), (f16, &[1, 2]), (f32, &[2, 4])] {
            for &size in sizes {
                let atomic = Type::new(StorageType::Atomic(elem)).with_vector_size(size);
                device.register_atomic_type_usage(atomic, adds);
            }
        }
        device.register_semantic_type(SemanticType::Pipeline);
        device.register_semantic_type(SemanticType::TensorMap);
        for level in [BarrierLevel::Unit, BarrierLevel::Cube] {
            device.register_type_usage(OpaqueType::Barrier(level), TypeUsage::Buffer);
        }
        let features = &mut device.features;
        features.plane.insert_all(Plane::Ops | Plane::Sync | Plane::NonUniformControlFlow);
        features.tma.insert(Tma::Base);
        features.copy_async = true;
        features.cube_cluster = true;
        features.memory_reinterpret = true;
        features.alignment = true;
        for elem in [f16, bf16] {
            features.matmul.ldmatrix.insert(elem.into());
            features.matmul.stmatrix.insert(elem.into());
        }
        let arch = CudaArchitecture { version: 90 };
        register_wmma_features(CudaWmmaCompiler::supported_wmma_combinations(&arch), &mut device);
        register_mma_features(CudaWmmaCompiler::supported_mma_combinations(&arch), &mut device);
        register_scaled_mma_features(CudaWmmaCompiler::supported_scaled_mma_combinations(&arch), &mut device);
        device
    }

    fn matrices() -> TargetProperties {
        TargetProperties {
            mma: MmaProperties {
                register_size_bits: 32,
                const_plane_size: 32,
                register_layout_a: MatrixLayout::RowMajor,
                register_layout_b: MatrixLayout::ColMajor,
                register_layout_acc: MatrixLayout::RowMajor,
                register_duplication_a: 1,
                register_duplication_b: 1,
                register_duplication_acc: 1,
                contiguous_elements: ContiguousElements::new(contiguous_elements_cuda),
            },
        }
    }

    fn options() -> CompilationOptions {
        CompilationOptions {
            warp_size: 32,
            supports_features: CppSupportedFeatures {
                grid_constants: true,
                clusters: true,
                fast_math: true,
                fast_tanh: true,
                elect_sync: true,
            },
        }
    }

    fn shared_bytes(repr: &ComputeKernel<CudaDialect<CudaWmmaCompiler>>) -> usize {
        repr.shared_memory_size()
    }
}

type Hip = HipDialect<WmmaIntrinsicCompiler>;

fn hip_device(arch: &AMDArchitecture) -> DeviceProperties {
    let matrices = WmmaIntrinsicCompiler::supported_wmma_combinations(arch);
    let mut device = properties(HardwareProperties {
        plane_size_min: arch.warp_size(),
        plane_size_max: arch.warp_size(),
        max_shared_memory_size: 64 << 10,
        max_cube_count: (i32::MAX as u32, 65_535, 65_535),
        max_cube_dim: (1024, 1024, 1024),
        min_tensor_cores_dim: (!matrices.is_empty()).then_some(16),
        max_vector_size: VectorSize::MAX,
        ..HARDWARE
    });
    register_supported_types(&mut device);
    device.features.memory_reinterpret = true;
    device.features.alignment = true;
    device.features.plane.insert_all(Plane::Ops | Plane::NonUniformControlFlow);
    register_wmma_features(matrices, &mut device);
    register_mma_features(WmmaIntrinsicCompiler::supported_mma_combinations(arch), &mut device);
    device
}

fn hip_matrices() -> TargetProperties {
    TargetProperties {
        mma: MmaProperties {
            register_size_bits: 32,
            const_plane_size: 32,
            register_layout_a: MatrixLayout::RowMajor,
            register_layout_b: MatrixLayout::ColMajor,
            register_layout_acc: MatrixLayout::ColMajor,
            register_duplication_a: 2,
            register_duplication_b: 2,
            register_duplication_acc: 1,
            contiguous_elements: ContiguousElements::new(contiguous_elements_rdna3),
        },
    }
}

fn hip_options(arch: &AMDArchitecture) -> CompilationOptions {
    CompilationOptions {
        warp_size: arch.warp_size(),
        supports_features: CppSupportedFeatures { fast_math: true, ..Default::default() },
    }
}

impl Target for HipWave32 {
    type Compiler = CppCompiler<Hip>;

    const NAME: &'static str = "hip-wave32";
    const EXTENSION: &'static str = "hip";
    const ARRAY_LENGTHS: bool = true;

    fn device() -> DeviceProperties {
        hip_device(&AMDArchitecture::GFX11)
    }

    fn matrices() -> TargetProperties {
        hip_matrices()
    }

    fn options() -> CompilationOptions {
        hip_options(&AMDArchitecture::GFX11)
    }

    fn shared_bytes(repr: &ComputeKernel<Hip>) -> usize {
        repr.shared_memory_size()
    }
}

impl Target for HipWave64 {
    type Compiler = CppCompiler<Hip>;

    const NAME: &'static str = "hip-wave64";
    const EXTENSION: &'static str = "hip";
    const ARRAY_LENGTHS: bool = true;

    fn device() -> DeviceProperties {
        hip_device(&AMDArchitecture::GFX94)
    }

    fn matrices() -> TargetProperties {
        hip_matrices()
    }

    fn options() -> CompilationOptions {
        hip_options(&AMDArchitecture::GFX94)
    }

    fn shared_bytes(repr: &ComputeKernel<Hip>) -> usize {
        repr.shared_memory_size()
    }
}

fn register_atomics(device: &mut DeviceProperties, elems: &[ElemType], usage: &[AtomicUsage]) {
    for &elem in elems {
        for &usage in usage {
            device.register_atomic_type_usage(Type::new(StorageType::Atomic(elem)), usage);
        }
    }
}

const I32: ElemType = ElemType::Int(IntKind::I32);
const U32: ElemType = ElemType::UInt(UIntKind::U32);

impl Target for Wgsl {
    type Compiler = WgslCompiler;

    const NAME: &'static str = "wgsl";
    const EXTENSION: &'static str = "wgsl";

    fn device() -> DeviceProperties {
        let mut device = properties(HARDWARE);
        device.register_address_type(AddressType::U32);
        for elem in [
            U32,
            I32,
            ElemType::Float(FloatKind::F32),
            ElemType::Float(FloatKind::Flex32),
            ElemType::Float(FloatKind::F16),
            ElemType::Bool,
        ] {
            device.register_type_usage(elem, TypeUsage::all());
        }
        register_atomics(&mut device, &[I32, U32], &[AtomicUsage::LoadStore, AtomicUsage::Add]);
        device.features.plane.insert(Plane::Ops);
        device
    }

    fn options() -> WgpuCompilationOptions {
        WgpuCompilationOptions::default()
    }

    fn shared_bytes(repr: &<WgslCompiler as Compiler>::Representation) -> usize {
        repr.shared_memory_bytes()
    }

    fn check(code: &[u8]) -> Result<Option<&'static str>, String> {
        wgsl::validate(code).map(|()| Some("naga"))
    }
}

impl Target for SpirV {
    type Compiler = SpirvCompiler;

    const NAME: &'static str = "spirv";
    const EXTENSION: &'static str = "spv";

    fn device() -> DeviceProperties {
        let mut device = properties(HARDWARE);
        device.register_address_type(AddressType::U32);
        for elem in [
            ElemType::UInt(UIntKind::U8),
            ElemType::UInt(UIntKind::U16),
            U32,
            ElemType::UInt(UIntKind::U64),
            ElemType::Int(IntKind::I8),
            ElemType::Int(IntKind::I16),
            I32,
            ElemType::Int(IntKind::I64),
            ElemType::Float(FloatKind::F16),
            ElemType::Float(FloatKind::F32),
            ElemType::Bool,
        ] {
            device.register_type_usage(elem, TypeUsage::all());
        }
        // With `VK_KHR_shader_bfloat16`: converted and stored, but not computed with.
        let stored = TypeUsage::Conversion | TypeUsage::Buffer;
        device.register_type_usage(ElemType::Float(FloatKind::BF16), stored);
        let all = [AtomicUsage::LoadStore, AtomicUsage::Add, AtomicUsage::MinMax];
        register_atomics(&mut device, &[I32, U32], &all);
        device.features.plane.insert_all(Plane::Ops | Plane::Sync | Plane::NonUniformControlFlow);
        device
    }

    fn options() -> WgpuCompilationOptions {
        WgpuCompilationOptions {
            supports_u64: true,
            supports_vulkan: true,
            // What Vulkan 1.3 has without an extension: every driver takes the result.
            vulkan: VulkanCompilationOptions {
                supports_uniform_standard_layout: true,
                max_spirv_version: (1, 6),
                ..Default::default()
            },
        }
    }

    fn shared_bytes(repr: &<SpirvCompiler as Compiler>::Representation) -> usize {
        repr.shared_size
    }

    fn code(repr: &<SpirvCompiler as Compiler>::Representation, _: String) -> Vec<u8> {
        repr.assembled_module.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

impl Target for Msl {
    type Compiler = CppCompiler<MslDialect>;

    const NAME: &'static str = "msl";
    const EXTENSION: &'static str = "metal";

    fn device() -> DeviceProperties {
        let mut device = properties(HARDWARE);
        device.register_address_type(AddressType::U32);
        device.register_address_type(AddressType::U64);
        for elem in [
            ElemType::UInt(UIntKind::U8),
            ElemType::UInt(UIntKind::U16),
            U32,
            ElemType::UInt(UIntKind::U64),
            ElemType::Int(IntKind::I8),
            ElemType::Int(IntKind::I16),
            I32,
            ElemType::Int(IntKind::I64),
            ElemType::Float(FloatKind::F16),
            ElemType::Float(FloatKind::F32),
            ElemType::Bool,
        ] {
            device.register_type_usage(elem, TypeUsage::all());
        }
        let atomics = [I32, U32, ElemType::UInt(UIntKind::U64), ElemType::Float(FloatKind::F32)];
        register_atomics(&mut device, &atomics, &[AtomicUsage::LoadStore, AtomicUsage::Add]);
        device.features.alignment = true;
        device.features.plane.insert_all(Plane::Ops | Plane::Sync | Plane::NonUniformControlFlow);
        let combinations = MslDialect::supported_wmma_combinations(&MetalArchitecture::Metal3);
        register_wmma_features(combinations, &mut device);
        device
    }

    fn options() -> CompilationOptions {
        CompilationOptions::default()
    }

    fn shared_bytes(repr: &ComputeKernel<MslDialect>) -> usize {
        repr.shared_memory_size()
    }
}

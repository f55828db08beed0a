//! What source is emitted for. Each target says what CubeCL 0.10's own runtime says of such a device when it finds one, as far as kernels
//! and the choice between them depend on it.

use cubecl::ir::features::{AtomicUsage, Plane, Tma, TypeUsage};
use cubecl::ir::{
    AddressType, BarrierLevel, ContiguousElements, DeviceProperties, ElemType, FloatKind, HardwareProperties,
    IntKind, MatrixLayout, MemoryDeviceProperties, MmaProperties, OpaqueType, SemanticType, StorageType,
    TargetProperties, Type, UIntKind, VectorSize,
};
use cubecl::profile::TimingMethod;
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::{CudaWmmaCompiler, contiguous_elements_cuda};
use cubecl_cpp::hip::arch::AMDArchitecture;
use cubecl_cpp::hip::mma::{WmmaIntrinsicCompiler, contiguous_elements_rdna3};
use cubecl_cpp::metal::MslDialect;
use cubecl_cpp::metal::arch::MetalArchitecture;
use cubecl_cpp::shared::{
    Architecture, register_mma_features, register_scaled_mma_features, register_wmma_features,
};
use cubecl_cpp::{DialectWmmaCompiler, register_supported_types};

/// A language, and the device that it is written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Target {
    /// CUDA C++ for compute capability 9.0.
    #[default]
    Cuda,
    /// HIP for RDNA (gfx1100).
    HipWave32,
    /// HIP for CDNA (gfx90a and gfx942, for which CubeCL emits the same).
    HipWave64,
    /// SPIR-V for Vulkan 1.3.
    SpirV,
    /// WGSL with 16-bit floats and subgroups.
    Wgsl,
    /// Metal 3.
    Msl,
}

impl Target {
    pub(super) const ALL: [Self; 6] =
        [Self::Cuda, Self::HipWave32, Self::HipWave64, Self::SpirV, Self::Wgsl, Self::Msl];

    /// As in the manifest, and the folder of its sources.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::HipWave32 => "hip-wave32",
            Self::HipWave64 => "hip-wave64",
            Self::SpirV => "spirv",
            Self::Wgsl => "wgsl",
            Self::Msl => "msl",
        }
    }

    /// Of a source file.
    pub(super) fn file_extension(self) -> &'static str {
        match self {
            Self::Cuda => "cu",
            Self::HipWave32 | Self::HipWave64 => "hip",
            Self::SpirV => "spv",
            Self::Wgsl => "wgsl",
            Self::Msl => "metal",
        }
    }

    pub(super) fn device(self) -> DeviceProperties {
        match self {
            Self::Cuda => cuda(),
            Self::HipWave32 => hip(&RDNA),
            Self::HipWave64 => hip(&CDNA),
            Self::SpirV => spirv(),
            Self::Wgsl => wgsl(),
            Self::Msl => msl(),
        }
    }

    /// How matrix instructions lay out their registers; nothing where a kernel cannot use them so.
    pub(super) fn matrices(self) -> TargetProperties {
        let mma = match self {
            Self::Cuda => MmaProperties {
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
            Self::HipWave32 | Self::HipWave64 => MmaProperties {
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
            Self::SpirV | Self::Wgsl | Self::Msl => MmaProperties::default(),
        };
        TargetProperties { mma }
    }
}

pub(super) const RDNA: AMDArchitecture = AMDArchitecture::GFX11;
pub(super) const CDNA: AMDArchitecture = AMDArchitecture::GFX94;

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

fn cuda() -> DeviceProperties {
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

fn hip(arch: &AMDArchitecture) -> DeviceProperties {
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

fn register_atomics(device: &mut DeviceProperties, elems: &[ElemType], usage: &[AtomicUsage]) {
    for &elem in elems {
        for &usage in usage {
            device.register_atomic_type_usage(Type::new(StorageType::Atomic(elem)), usage);
        }
    }
}

const I32: ElemType = ElemType::Int(IntKind::I32);
const U32: ElemType = ElemType::UInt(UIntKind::U32);

fn wgsl() -> DeviceProperties {
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

fn spirv() -> DeviceProperties {
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

fn msl() -> DeviceProperties {
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

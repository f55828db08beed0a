//! CubeCL's compilers, as one: a target compiles with its own, and the engine is built once for all targets.

use std::fmt;

use cubecl::ir::{ElemType, StorageType};
use cubecl::prelude::*;
use cubecl::server::ExecutionMode;
use cubecl::{CompilationError, Compiler, VulkanCompilationOptions, WgpuCompilationOptions};
use cubecl_cpp::cuda::CudaDialect;
use cubecl_cpp::cuda::mma::CudaWmmaCompiler;
use cubecl_cpp::hip::HipDialect;
use cubecl_cpp::hip::arch::AMDArchitecture;
use cubecl_cpp::hip::mma::WmmaIntrinsicCompiler;
use cubecl_cpp::metal::MslDialect;
use cubecl_cpp::shared::{Architecture, CompilationOptions, CppCompiler, CppSupportedFeatures, Dialect};
use cubecl_spirv::SpirvCompiler;
use cubecl_wgpu::WgslCompiler;

use super::target::{CDNA, RDNA, Target};
use super::wgsl;

/// What a driver is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) bytes: Vec<u8>,
    /// Shared memory of a cube.
    pub(super) shared_bytes: usize,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.bytes))
    }
}

impl Compiler for Target {
    type Representation = Code;
    type CompilationOptions = ();

    fn compile(
        &mut self,
        kernel: KernelDefinition,
        (): &(),
        mode: ExecutionMode,
        addresses: StorageType,
    ) -> Result<Code, CompilationError> {
        match self {
            Self::Cuda => cpp::<CudaDialect<CudaWmmaCompiler>>(kernel, &cuda_options(), mode, addresses),
            Self::HipWave32 => hip(kernel, &RDNA, mode, addresses),
            Self::HipWave64 => hip(kernel, &CDNA, mode, addresses),
            Self::Msl => cpp::<MslDialect>(kernel, &CompilationOptions::default(), mode, addresses),
            Self::Wgsl => {
                let options = WgpuCompilationOptions::default();
                let shader = WgslCompiler::default().compile(kernel, &options, mode, addresses)?;
                Ok(Code {
                    bytes: shader.to_string().into_bytes(),
                    shared_bytes: shader.shared_memory_bytes(),
                })
            }
            Self::SpirV => {
                let mut compiler: SpirvCompiler = SpirvCompiler::default();
                let module = compiler.compile(kernel, &vulkan_options(), mode, addresses)?;
                let bytes = module.assembled_module.iter().flat_map(|word| word.to_le_bytes()).collect();
                Ok(Code { bytes, shared_bytes: module.shared_size })
            }
        }
    }

    fn elem_size(&self, elem: ElemType) -> usize {
        elem.size()
    }

    fn extension(&self) -> &'static str {
        (*self).file_extension()
    }
}

impl Target {
    /// Validates code here, where that needs no tool: the name of what did it.
    pub(super) fn check(self, code: &[u8]) -> Result<Option<&'static str>, String> {
        match self {
            Self::Wgsl => wgsl::validate(code).map(|()| Some("naga")),
            Self::Cuda | Self::HipWave32 | Self::HipWave64 | Self::SpirV | Self::Msl => Ok(None),
        }
    }
}

fn cpp<D: Dialect>(
    kernel: KernelDefinition,
    options: &CompilationOptions,
    mode: ExecutionMode,
    addresses: StorageType,
) -> Result<Code, CompilationError> {
    let source = CppCompiler::<D>::default().compile(kernel, options, mode, addresses)?;
    Ok(Code { bytes: source.to_string().into_bytes(), shared_bytes: source.shared_memory_size() })
}

fn hip(
    kernel: KernelDefinition,
    arch: &AMDArchitecture,
    mode: ExecutionMode,
    addresses: StorageType,
) -> Result<Code, CompilationError> {
    let options = CompilationOptions {
        warp_size: arch.warp_size(),
        supports_features: CppSupportedFeatures { fast_math: true, ..Default::default() },
    };
    cpp::<HipDialect<WmmaIntrinsicCompiler>>(kernel, &options, mode, addresses)
}

fn cuda_options() -> CompilationOptions {
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

/// What Vulkan 1.3 has without an extension: every driver takes the result.
fn vulkan_options() -> WgpuCompilationOptions {
    WgpuCompilationOptions {
        supports_u64: true,
        supports_vulkan: true,
        vulkan: VulkanCompilationOptions {
            supports_uniform_standard_layout: true,
            max_spirv_version: (1, 6),
            ..Default::default()
        },
    }
}

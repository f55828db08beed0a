//! A CubeCL runtime without a device: a launch compiles its kernel and keeps the source.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use cubecl::backtrace::BackTrace;
use cubecl::bytes::Bytes;
use cubecl::device::{Device, DeviceId, DeviceService, ServerUtilitiesHandle};
use cubecl::future::DynFut;
use cubecl::ir::TargetProperties;
use cubecl::prelude::*;
use cubecl::profile::ProfileDuration;
use cubecl::server::{
    Binding, ComputeServer, CopyDescriptor, ExecutionMode, IoError, KernelArguments, ProfileError,
    ProfilingToken, ServerCommunication, ServerError, ServerUtilities,
};
use cubecl::stream_id::StreamId;
use cubecl::zspace::{Shape, Strides};
use cubecl::{CompilationError, CubeTask, MemoryUsage};
use cubecl_runtime::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_runtime::id::KernelId;
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::{ManagedMemoryHandle, MemoryAllocationMode};
use cubecl_runtime::storage::{ComputeStorage, ManagedResource, StorageHandle, StorageId};
use cubecl_runtime::validation::{validate_cube_dim, validate_units};

use super::compiler::Code;
use super::target::Target;

/// The runtime. Each target is a device of it.
#[derive(Clone, Debug)]
pub(super) struct Recorder;

/// One launch: the kernel's type, and what the compiler made of it.
#[derive(Debug)]
pub(super) struct Launch {
    /// Path and type arguments.
    pub(super) kernel: &'static str,
    pub(super) compiled: Arc<Result<Source, String>>,
}

/// A kernel in the language of its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) entry: String,
    pub(super) code: Code,
}

/// Launches since they were last taken.
#[derive(Debug)]
pub(super) struct Log {
    target: Target,
    launches: Mutex<Vec<Launch>>,
}

impl Log {
    fn add(&self, launch: Launch) {
        self.launches.lock().unwrap_or_else(PoisonError::into_inner).push(launch);
    }

    /// Empties the log. A launch that is still queued is not in it: flush the client first.
    pub(super) fn take(&self) -> Vec<Launch> {
        std::mem::take(&mut *self.launches.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Device for Target {
    fn from_id(id: DeviceId) -> Self {
        Self::ALL[usize::from(id.index_id)]
    }

    fn to_id(&self) -> DeviceId {
        DeviceId::new(0, *self as u16)
    }
}

thread_local! {
    /// The target of the kernel that this thread compiles: CubeCL asks the runtime for what its devices differ in here.
    static COMPILED_FOR: Cell<Target> = const { Cell::new(Target::Cuda) };
}

impl Runtime for Recorder {
    type Compiler = Target;
    type Server = Server;
    type Device = Target;

    fn client(device: &Target) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(client: &ComputeClient<Self>) -> &'static str {
        client.info().target.name()
    }

    fn max_cube_count() -> (u32, u32, u32) {
        (65_535, 65_535, 65_535)
    }

    fn can_read_tensor(_: &Shape, _: &Strides) -> bool {
        true
    }

    fn target_properties() -> TargetProperties {
        COMPILED_FOR.get().matrices()
    }

    fn enumerate_devices(_: u16, _: &Log) -> Vec<DeviceId> {
        Target::ALL.iter().map(Device::to_id).collect()
    }
}

/// Compiles, and has no memory.
#[derive(Debug)]
pub(super) struct Server {
    target: Target,
    utilities: Arc<ServerUtilities<Self>>,
    compiled: HashMap<(KernelId, bool), Arc<Result<Source, String>>>,
}

impl Server {
    fn compile(&self, kernel: &dyn CubeTask<Target>, mode: ExecutionMode) -> Result<Source, String> {
        let properties = &self.utilities.properties;
        let id = kernel.id();
        // A runtime refuses these at launch, so a kernel that asks for them is of no use on the target.
        let too_large = || format!("a cube of {:?} is too large", id.cube_dim);
        validate_cube_dim(properties, &id).map_err(|_| too_large())?;
        validate_units(properties, &id).map_err(|_| too_large())?;
        COMPILED_FOR.set(self.target);
        let compiled = kernel
            .compile(&mut self.target.clone(), &(), mode, kernel.address_type())
            .map_err(|error| reason(&error))?;
        let code = compiled.repr.ok_or("the compiler gave text only")?;
        let (shared, most) = (code.shared_bytes, properties.hardware.max_shared_memory_size);
        if shared > most {
            return Err(format!("{shared} bytes of shared memory, {most} is the most"));
        }
        Ok(Source { entry: compiled.entrypoint_name, code })
    }
}

/// Without the backtrace that CubeCL prints with it.
fn reason(error: &CompilationError) -> String {
    match error {
        CompilationError::UnsupportedInstruction { reason, .. }
        | CompilationError::Generic { reason, .. }
        | CompilationError::Validation { reason, .. } => reason.trim().to_owned(),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the compiler panicked").to_owned()
}

fn no_memory() -> ServerError {
    IoError::UnsupportedIoOperation { backtrace: BackTrace::capture() }.into()
}

impl DeviceService for Server {
    fn init(id: DeviceId) -> Self {
        let target = Target::from_id(id);
        let properties = target.device();
        let layout = ContiguousMemoryLayoutPolicy::new(properties.memory.alignment as usize);
        let logger = Arc::new(ServerLogger::default());
        let log = Log { target, launches: Mutex::default() };
        let utilities = ServerUtilities::new(properties, logger, log, layout);
        Self { target, utilities: Arc::new(utilities), compiled: HashMap::new() }
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone() as ServerUtilitiesHandle
    }
}

impl ServerCommunication for Server {
    const SERVER_COMM_ENABLED: bool = false;
}

impl ComputeServer for Server {
    type Kernel = Box<dyn CubeTask<Target>>;
    type Info = Log;
    type MemoryLayoutPolicy = ContiguousMemoryLayoutPolicy;
    type Storage = NoStorage;

    #[allow(unsafe_code, reason = "the trait's")]
    // Sound whatever the arguments: nothing is executed.
    unsafe fn launch(
        &mut self,
        kernel: Self::Kernel,
        _: CubeCount,
        _: KernelArguments,
        mode: ExecutionMode,
        _: StreamId,
    ) {
        let key = (kernel.id(), mode == ExecutionMode::Checked);
        let known = self.compiled.get(&key).cloned();
        let compiled = known.unwrap_or_else(|| {
            // CubeCL's compilers panic where a target lacks an instruction, and a panic here would take the log with it.
            let compiled = catch_unwind(AssertUnwindSafe(|| self.compile(kernel.as_ref(), mode)))
                .unwrap_or_else(|panic| Err(panic_text(panic.as_ref())));
            let compiled = Arc::new(compiled);
            self.compiled.insert(key, compiled.clone());
            compiled
        });
        self.utilities.info.add(Launch { kernel: kernel.as_ref().name(), compiled });
    }

    fn initialize_memory(&mut self, _: ManagedMemoryHandle, _: u64, _: StreamId) {}

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities<Self>> {
        self.utilities.clone()
    }

    fn read(&mut self, _: Vec<CopyDescriptor>, _: StreamId) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        Box::pin(async { Err(no_memory()) })
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(&mut self, _: StreamId) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn get_resource(&mut self, _: Binding, _: StreamId) -> Result<ManagedResource<Infallible>, ServerError> {
        Err(no_memory())
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_usage(&mut self, _: StreamId) -> Result<MemoryUsage, ServerError> {
        Err(no_memory())
    }

    fn memory_cleanup(&mut self, _: StreamId) {}

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        Err(no_memory())
    }

    fn end_profile(&mut self, _: StreamId, _: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        Err(ProfileError::NotRegistered { backtrace: BackTrace::capture() })
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

/// Memory that no handle can point into.
#[derive(Debug)]
pub(super) struct NoStorage;

impl ComputeStorage for NoStorage {
    type Resource = Infallible;

    fn alignment(&self) -> usize {
        1
    }

    fn get(&mut self, _: &StorageHandle) -> Infallible {
        unreachable!("`alloc` gives no handle")
    }

    fn alloc(&mut self, _: u64) -> Result<StorageHandle, IoError> {
        Err(IoError::UnsupportedIoOperation { backtrace: BackTrace::capture() })
    }

    fn dealloc(&mut self, _: StorageId) {}

    fn flush(&mut self) {}
}

//! Cases on the host engine, with one thread and with several.

use tether_core::{CoreError, DType};
use tether_host::Host;

/// Runs a case for every storage type.
///
/// # Panics
/// When the case is refused.
pub fn on_host_for_all_dtypes(case: fn(&Host, DType) -> Result<(), CoreError>) {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        on_host(|host| case(host, dtype));
    }
}

/// Runs a case.
///
/// # Panics
/// When the case is refused.
pub fn on_host(case: impl Fn(&Host) -> Result<(), CoreError>) {
    for host in [Host::new(), Host::parallel()] {
        case(&host).expect("the host engine does all operations");
    }
}

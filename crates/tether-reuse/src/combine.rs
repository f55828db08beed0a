//! Policies made of policies.

mod cfg_lead;
mod forecast;
mod guard;
mod lanes;

pub use cfg_lead::CfgLead;
pub use forecast::Forecast;
pub use guard::{Guard, Guarded};
pub use lanes::Lanes;

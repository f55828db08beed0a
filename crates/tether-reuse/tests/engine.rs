//! The host's engine under the cases that every engine passes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::{CoreError, DType};
use tether_reuse::HostReuse;
use tether_testing::reuse_cases::{self, ReuseSubject};

fn on_host(case: impl Fn(&ReuseSubject<'_, HostReuse>) -> Result<(), CoreError>) {
    case(&ReuseSubject::host(&HostReuse::new())).unwrap();
}

#[test]
fn measures_signals() {
    on_host(|host| reuse_cases::measures_signals(host, DType::F32));
}

#[test]
fn measures_nothing_as_nothing() {
    on_host(reuse_cases::measures_nothing_as_nothing);
}

#[test]
fn tells_what_is_not_a_number() {
    on_host(|host| reuse_cases::tells_what_is_not_a_number(host, DType::F32));
}

#[test]
fn refuses_grids_that_do_not_fit() {
    on_host(reuse_cases::refuses_grids_that_do_not_fit);
}

#[test]
fn makes_differences() {
    on_host(|host| reuse_cases::makes_differences(host, DType::F32));
}

#[test]
fn climbs_ladders() {
    on_host(|host| reuse_cases::climbs_ladders(host, DType::F32));
}

#[test]
fn combines_tensors() {
    on_host(|host| reuse_cases::combines_tensors(host, DType::F32));
}

#[test]
fn refuses_tensors_that_do_not_fit() {
    on_host(reuse_cases::refuses_tensors_that_do_not_fit);
}

#[test]
fn reuses_steps_as_it_always_does() {
    on_host(|host| reuse_cases::reuses_steps_as_the_host_does(host, HostReuse::new));
}

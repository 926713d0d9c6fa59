//! In the place of the meters, without the feature `metrics`.

use std::time::Duration;

use super::End;
use super::figures::Figures;
use super::operation::Operation;
use super::server::Server;

pub(super) fn call(_: Operation, _: &Server, _: &Figures, _: Duration, _: End<'_>) {}

pub(in crate::postgres) fn batch(_: &Server, _: usize) {}

pub(in crate::postgres) fn discarded(_: &Server, _: &'static str) {}

pub(in crate::postgres) fn read(_: bool) {}

pub(in crate::postgres) fn publish(_: &crate::postgres::shared::Shared) {}

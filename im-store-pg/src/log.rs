//! The log: the table `messages` in the order of its offsets.

use std::sync::Arc;

use crate::connect::Inner;

/// The log part: [`MessageLog`](im_core::MessageLog) and [`Leases`](im_core::Leases).
#[derive(Debug, Clone)]
pub struct PgLog(pub(crate) Arc<Inner>);

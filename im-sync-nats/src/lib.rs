//! Chat over NATS, 2.9 or newer. So far the notifier, on core NATS; log, inbox and presence on JetStream are to come.
//!
//! ```no_run
//! # async fn example() -> im_core::Result<()> {
//! use im_sync_nats::NatsBackend;
//!
//! let nats = NatsBackend::connect("nats://127.0.0.1:4222").await?;
//! let notifier = nats.notifier();
//! nats.close().await;
//! # Ok(()) }
//! ```
//!
//! # Subjects
//! All begin with the [prefix](NatsBuilder::prefix).
//!
//! | Subject | What is on it |
//! |---|---|
//! | `notices.<node>` | notices to a node, as `notices.proto` of im-core describes them; nothing at all: what should have been there was too large. The node's id is in base64url, so that it may hold any character |

mod connect;
mod error;
mod notifier;
mod report;

pub use connect::{NatsBackend, NatsBuilder};
pub use notifier::NatsNotifier;
pub use report::NatsReport;

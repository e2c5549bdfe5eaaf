//! The chat engine: one durable log, and everything else projected from it.
//!
//! ```text
//! send ──► MessageLog ──ack──► sender
//!              ├──► persist ──► MessageStore        (only where log and store are different data)
//!              ├──► fan out ──► SyncInbox ──► Notifier ──► node ──► session ──► client
//!              └──► projections of the host
//! ```
//!
//! Start with [`Engine::builder`]. There is no SQL, no socket and no wire format here.
//!
//! Two users of one host; the parts are those of any backend:
//!
//! ```
//! use im_engine::{DeviceId, Engine, Event, Hello, Identity, NewMessage, Platform, Pull, UserId, memory::Memory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let chat = Engine::builder(&Memory::new()).start().await?;
//! let (alice, bob) = (UserId::new("alice")?, UserId::new("bob")?);
//! let talk = chat.open_single(&alice, &bob).await?;
//!
//! // What a transport does for a client.
//! let (device, platform) = (DeviceId::new("laptop")?, Platform::new("web")?);
//! let identity = Identity { user: bob, device, platform };
//! let (session, welcome) = chat.connect(identity, Hello::default()).await?;
//! // Without a cursor of an earlier session there is one to begin with.
//! assert!(welcome.resync);
//! let cursor = session.fresh().await?.cursor;
//!
//! chat.send(NewMessage::text(&alice, &talk.id, "hello")).await?;
//! // A signal says that something is new and may carry it; the inbox has it in any case.
//! while !matches!(session.event().await, Event::Entries(_) | Event::End(_)) {}
//! let Pull::Page { entries, .. } = session.pull(&cursor, 100).await? else { panic!("a cursor of just now") };
//! let newest = entries.last().ok_or("nothing came")?;
//! assert_eq!(&*newest.record.content, "hello");
//! session.ack(&newest.cursor)?;
//! # drop(session);
//! # chat.shutdown().await;
//! # Ok(()) }
//! ```

mod admission;
mod builder;
mod burst;
mod cell;
mod commit;
mod config;
mod engine;
mod entries;
mod epoch;
mod error;
mod fanout;
mod freshness;
mod groups;
mod housekeeping;
mod hub;
mod ids;
mod lookups;
mod marks;
mod members;
mod outbox;
mod persist;
mod progress;
mod reads;
mod resync;
mod send;
mod session;
mod session_ops;
mod signal;
mod switch;
mod worker;

pub use builder::Builder;
pub use cell::{CloseReason, Event};
pub use config::{Config, ReadMarks, SessionSlot};
pub use engine::{Engine, EngineInfo};
pub use entries::Entries;
pub use groups::{MemberChange, NewGroup};
pub use ids::{IdSource, Uuids};
pub use im_core::*;
pub use marks::StateView;
pub use reads::{ConversationView, HistoryPage, HistoryRange};
pub use resync::{BootstrapPage, Fresh};
pub use send::{Ack, AckLevel, NewMessage};
pub use session::{Draft, Heartbeat, Hello, Identity, Session, Welcome};

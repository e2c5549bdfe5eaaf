//! A session: one live connection of one device, and what it may ask.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use im_core::{
    ClientMsgId, Connect, Connected, ContentType, ConversationId, Cursor, DeviceId, Entry, Mark, Platform,
    Pull, SessionId, SessionRef, StateVersion, Timestamp, UserId,
};

use crate::{
    Ack, AckLevel, CloseReason, Event, NewMessage, Refusal, cell::Cell, engine::Inner, error::ChatResult,
};

/// Who connects, as the transport found by its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// What the device runs.
    pub platform: Platform,
}

/// What a client begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// Where it stands in its inbox, if it was here before.
    pub cursor: Option<Cursor>,
    /// The version of its own state that it has.
    pub state: Option<StateVersion>,
}

/// The answer to a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The session.
    pub session: SessionId,
    /// The client has no cursor that can be served: it must begin anew, with [`Session::fresh`].
    pub resync: bool,
    /// The inbox end; none where the inbox has no entry.
    pub end: Option<Cursor>,
    /// The present version of the user's own state.
    pub state: StateVersion,
    /// The server's time.
    pub time: Timestamp,
    /// The heads of the user's large groups.
    pub heads: Vec<(ConversationId, Mark)>,
}

/// The answer to a heartbeat: whatever hints were lost, the client now sees that it lacks something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The server's time.
    pub time: Timestamp,
    /// The inbox end.
    pub end: Option<Cursor>,
    /// The version of the user's own state.
    pub state: StateVersion,
    /// The heads of the user's large groups that moved since the session was last told.
    pub heads: Vec<(ConversationId, Mark)>,
}

/// A message to send on a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Where to.
    pub conversation: ConversationId,
    /// Names the message for ever.
    pub client_msg_id: ClientMsgId,
    /// How the content is to be read.
    pub content_type: ContentType,
    /// The content.
    pub content: Arc<str>,
    /// What the ack is to say.
    pub level: AckLevel,
}

/// One live connection of one device of one user. Dropping it ends it.
///
/// It is for whoever has a client at the other end: who calls [`heartbeat`](Self::heartbeat) as often as [`Config::heartbeat`](crate::Config::heartbeat) says
/// and [acks](Self::ack) what it got. To wait for [events](Self::event) is no sign of life: without heartbeats the session is closed
/// as [`Silent`](crate::CloseReason::Silent) after three of them, without acks as [`NoAck`](crate::CloseReason::NoAck).
#[derive(Debug)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
    pub(crate) cell: Arc<Cell>,
}

impl Inner {
    pub(crate) async fn connect(
        self: &Arc<Self>,
        identity: Identity,
        hello: Hello,
    ) -> ChatResult<(Session, Welcome)> {
        if self.stop.is_cancelled() {
            return Err(Refusal::ShuttingDown.into());
        }
        let session = self.enter(identity).await?;
        let welcome = session.welcome(hello).await?;
        Ok((session, welcome))
    }

    /// In the presence before the inbox end is read: whatever is delivered from now on is signalled.
    async fn enter(self: &Arc<Self>, identity: Identity) -> ChatResult<Session> {
        let request = self.connect_request(identity)?;
        let cell = Arc::new(Cell::new(request.user.clone(), request.session.clone()));
        self.hub.add(cell.clone());
        let session = Session { inner: self.clone(), cell };
        // Again: a shutdown that began before the session was in the hub did not see it, and would leave it open for ever.
        if self.stop.is_cancelled() {
            return Err(Refusal::ShuttingDown.into());
        }
        let displaced = match self.parts.presence.connect(&request).await? {
            Connected::Accepted(displaced) => displaced,
            Connected::Refused => return Err(Refusal::SessionsFull.into()),
        };
        session.cell.entered();
        if !displaced.is_empty() {
            self.signaller.kick(&request.user, displaced).await;
        }
        Ok(session)
    }

    fn connect_request(&self, identity: Identity) -> ChatResult<Connect> {
        let session = SessionRef {
            id: SessionId::new(self.ids.fresh())?,
            node: self.node.clone(),
            device: identity.device,
            platform: identity.platform,
        };
        Ok(Connect {
            user: identity.user,
            slot: self.slot(&session),
            session,
            max: self.config.session_max,
            when_full: self.config.session_when_full,
        })
    }
}

impl Session {
    async fn welcome(&self, hello: Hello) -> ChatResult<Welcome> {
        let served = match &hello.cursor {
            Some(cursor) => self.inner.parts.inbox.pull(self.user(), cursor, 1).await? != Pull::Resync,
            None => false,
        };
        if let Some(cursor) = hello.cursor.as_ref().filter(|_| served) {
            self.cell.stands_on(cursor);
        }
        let Heartbeat { time, end, state, heads } = self.vitals().await?;
        Ok(Welcome { session: self.cell.session.id.clone(), resync: !served, end, state, time, heads })
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.cell.user
    }

    pub(crate) fn device(&self) -> &DeviceId {
        &self.cell.session.device
    }

    /// Refuses once the session is closed; notes that the client lives.
    pub(crate) fn open(&self) -> ChatResult<()> {
        self.cell.seen();
        if self.cell.is_closed() { Err(Refusal::Closed.into()) } else { Ok(()) }
    }

    /// Sends a message: see [`Session::begin_send`].
    ///
    /// # Errors
    /// As for [`Engine::send`](crate::Engine::send).
    pub async fn send(&self, draft: Draft) -> ChatResult<Ack> {
        self.begin_send(draft).await?.await
    }

    /// Checks a message and puts it in line; the future brings the ack. Messages begun one after the other keep that order.
    ///
    /// # Errors
    /// As for [`Engine::send`](crate::Engine::send), from either step.
    pub async fn begin_send(
        &self,
        draft: Draft,
    ) -> ChatResult<impl Future<Output = ChatResult<Ack>> + Send + use<>> {
        self.open()?;
        let message = NewMessage {
            sender: self.user().clone(),
            device: Some(self.device().clone()),
            conversation: draft.conversation,
            client_msg_id: draft.client_msg_id,
            content_type: draft.content_type,
            content: draft.content,
            level: draft.level,
        };
        self.inner.begin_send(message).await
    }

    /// The inbox entries after a cursor, at most `max` and at most a page.
    ///
    /// # Errors
    /// [`Refusal::Closed`], or the inbox's failure. A cursor that cannot be served is [`Pull::Resync`], no error.
    pub async fn pull(&self, after: &Cursor, max: usize) -> ChatResult<Pull> {
        self.pull_fitting(after, max, <[Entry]>::len).await
    }

    /// The same, and of those no more than fit: a transport says how many of the first, at least one. The client is taken to
    /// stand on the last of them.
    ///
    /// # Errors
    /// As for [`Session::pull`].
    pub async fn pull_fitting(
        &self,
        after: &Cursor,
        max: usize,
        fitting: impl FnOnce(&[Entry]) -> usize,
    ) -> ChatResult<Pull> {
        self.open()?;
        let mut pull = self.inner.parts.inbox.pull(self.user(), after, self.inner.page(max)).await?;
        if let Pull::Page { entries, more } = &mut pull {
            let fitting = fitting(entries).max(1);
            *more |= fitting < entries.len();
            entries.truncate(fitting);
            self.cell.stands_on(entries.last().map_or(after, |Entry { cursor, .. }| cursor));
        }
        Ok(pull)
    }

    /// The client has taken everything up to this cursor.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn ack(&self, cursor: &Cursor) -> ChatResult<()> {
        self.open()?;
        self.cell.acked(cursor);
        Ok(())
    }

    /// Says that the client lives, and tells it where everything stands.
    ///
    /// # Errors
    /// [`Refusal::Closed`], or a part's failure.
    pub async fn heartbeat(&self) -> ChatResult<Heartbeat> {
        self.open()?;
        Ok(self.vitals().await?)
    }

    async fn vitals(&self) -> im_core::Result<Heartbeat> {
        let users = std::slice::from_ref(self.user());
        let parts = &self.inner.parts;
        let (mut ends, mut versions, ()) = futures::try_join!(
            parts.inbox.ends(users),
            parts.store.states.versions(users),
            self.inner.refresh_large_groups(self.user())
        )?;
        Ok(Heartbeat {
            time: self.inner.clock.now(),
            end: ends.pop().flatten(),
            state: versions.pop().unwrap_or_else(|| StateVersion::new("")),
            heads: self.cell.take_heads(),
        })
    }

    /// The next event. Cancel safe: an event that was not returned comes next time. One task waits at a time: of two only the
    /// later one is woken.
    pub async fn event(&self) -> Event {
        self.cell.event().await
    }

    /// All events that wait, for a transport that is a state machine: at least one, with entries of up to about so many bytes.
    pub fn poll_events(&self, cx: &mut Context<'_>, bytes: usize) -> Poll<Vec<Event>> {
        self.cell.poll_events(cx, bytes)
    }

    /// The next event, if one is waiting.
    #[must_use]
    pub fn try_event(&self) -> Option<Event> {
        self.cell.try_event()
    }

    /// Closes the session with a reason, which the last event carries.
    pub fn close(&self, reason: CloseReason) {
        self.cell.close(reason);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.inner.hub.remove(&self.cell);
        let (inner, cell) = (self.inner.clone(), self.cell.clone());
        self.inner.spawn(async move {
            let gone = [(cell.user.clone(), cell.session.id.clone())];
            if let Err(error) = inner.parts.presence.disconnect(&gone).await {
                tracing::warn!(%error, "a session was not taken out of the presence; it ends with its node");
            }
        });
    }
}

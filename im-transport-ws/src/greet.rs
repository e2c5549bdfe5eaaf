//! The beginning of a connection: a hello, in time, or nothing.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
};

use im_engine::{ChatError, Clock, DeviceId, Hello, Platform, Session, SystemClock, Timestamp, Welcome};
use im_protocol::{self as wire, ErrorBody, ErrorCode, HeadView, Int, Op, Request, frame, ok, op};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};
use tungstenite::Utf8Bytes;

use crate::{
    auth::{AuthError, Authenticated},
    codes,
    farewell::End,
    ops::{self, error_frame, heads_frames, paged},
    outgoing::text_frame,
    socket::Shared,
    wire::{Incoming, Wire},
};

/// How often a client whose token has expired may try another one on the same connection.
const HELLOS: usize = 3;
/// How many frames beside its text a client may send before each hello; pings must be answered, and it may not read the answers.
const OTHERS: u32 = 16;

/// A session that has begun.
pub(crate) struct Greeted {
    pub(crate) session: Session,
    /// When the token ends.
    pub(crate) expires: Option<Instant>,
}

/// Waits for a hello and begins the session; tells the client why it does not.
pub(crate) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    shared: &Arc<Shared>,
) -> Result<Greeted, End> {
    for _ in 0..HELLOS {
        let text = match timeout(shared.config.hello_timeout, next_text(wire)).await {
            Ok(text) => text?,
            Err(_) => return Err(End::Close(wire::CloseCode::HelloTimeout)),
        };
        let (re, hello) = read_hello(wire, &text)?;
        match begin(wire, shared, re, hello).await {
            Ok(greeted) => return Ok(greeted),
            Err(body) => {
                let code = body.code;
                wire.push(error_frame(Some(re), body));
                if code != ErrorCode::TokenExpired {
                    return Err(End::Close(codes::refused_close(code)));
                }
            }
        }
    }
    Err(End::Close(wire::CloseCode::Unauthorized))
}

/// The next text message; what waits to be written is written meanwhile.
async fn next_text<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Utf8Bytes, End> {
    let mut frames = 0;
    poll_fn(|cx| {
        loop {
            let read = wire.poll_read(cx);
            frames += wire.take_frames();
            if frames > OTHERS + 1 {
                return Poll::Ready(Err(End::Close(wire::CloseCode::Flood)));
            }
            // After reading: a ping has left its pong to be written.
            if let Poll::Ready(Err(_)) = wire.poll_flush(cx) {
                return Poll::Ready(Err(End::Gone));
            }
            match ready!(read) {
                Ok(Incoming::Text(text)) => return Poll::Ready(Ok(text)),
                Ok(Incoming::Binary) => return Poll::Ready(Ok(Utf8Bytes::default())),
                Ok(Incoming::Control) => {}
                Err(broken) => return Poll::Ready(Err(broken.into())),
            }
        }
    })
    .await
}

/// Takes the frame as a hello; whatever else it is ends the connection.
fn read_hello<'a, S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    text: &'a Utf8Bytes,
) -> Result<(Int, op::Hello<'a>), End> {
    let (re, body) = match Request::decode(text) {
        Ok(Request { id, op: Op::Hello(hello) }) => return Ok((id.unwrap_or_default(), hello)),
        Ok(Request { id, .. }) => (id, ErrorBody::new(ErrorCode::HelloFirst, "the first frame is a hello")),
        Err(undecodable) => (undecodable.re, undecodable.into()),
    };
    wire.push(error_frame(re, body));
    Err(End::Close(wire::CloseCode::Protocol))
}

async fn begin<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    shared: &Arc<Shared>,
    re: Int,
    hello: op::Hello<'_>,
) -> Result<Greeted, ErrorBody<'static>> {
    let device: DeviceId = ops::id(&hello.device).map_err(invalid)?;
    let platform: Option<Platform> = hello.platform.as_ref().map(ops::id).transpose().map_err(invalid)?;
    let checked = timeout(
        shared.config.hello_timeout,
        shared.authenticator.authenticate(hello.token.as_str(), &device, platform.as_ref()),
    );
    let Authenticated { identity, expires } = match checked.await {
        Ok(checked) => checked.map_err(not_proven)?,
        Err(_) => return Err(ErrorBody::new(ErrorCode::Unavailable, "the token was not checked in time")),
    };
    let begun = Hello {
        cursor: hello.cursor.as_ref().and_then(ops::cursor),
        state: hello.state.as_ref().and_then(ops::version),
    };
    let (session, welcome) =
        shared.chat.connect(identity, begun).await.map_err(|error| codes::error_body(&error))?;
    tell(wire, shared, re, &session, &welcome);
    Ok(Greeted { session, expires: expires.map(|at| moment(at, SystemClock.now())) })
}

fn invalid(error: im_engine::InvalidId) -> ErrorBody<'static> {
    codes::error_body(&ChatError::from(error))
}

fn not_proven(error: AuthError) -> ErrorBody<'static> {
    let code = match &error {
        AuthError::Invalid => ErrorCode::Unauthorized,
        AuthError::Expired => ErrorCode::TokenExpired,
        AuthError::Unavailable(cause) => {
            tracing::warn!(%cause, "a token could not be checked");
            ErrorCode::Unavailable
        }
    };
    ErrorBody::new(code, error.to_string())
}

/// When a time of day comes.
fn moment(at: Timestamp, now: Timestamp) -> Instant {
    Instant::now() + at.since(now)
}

fn tell<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    shared: &Shared,
    re: Int,
    session: &Session,
    welcome: &Welcome,
) {
    let engine = shared.chat.config();
    let (heads, rest) = paged(&welcome.heads, engine.page);
    let ok = ok::Hello {
        user: session.user().into(),
        session: (&welcome.session).into(),
        resync: welcome.resync,
        end: welcome.end.as_ref().map(Into::into),
        state: (&welcome.state).into(),
        time: welcome.time.into(),
        heartbeat_ms: ms(engine.heartbeat),
        read_marks: match engine.read_marks {
            im_engine::ReadMarks::PerUser => ok::ReadMarks::PerUser,
            im_engine::ReadMarks::PerDevice => ok::ReadMarks::PerDevice,
        },
        limits: ok::Limits {
            content_bytes: engine.content_bytes.into(),
            frame_bytes: shared.config.frame_bytes.into(),
            page: engine.page.into(),
            group_members: engine.group_members.into(),
            frames_per_second: (shared.config.rate.per_second as u64).into(),
            frames_burst: (shared.config.rate.burst as u64).into(),
            ack_ms: ms(engine.ack_timeout),
            ..ok::Limits::default()
        },
        heads: heads.iter().map(HeadView::from).collect(),
    };
    wire.push(text_frame(frame::answer(re, &ok)));
    heads_frames(rest, engine.page).for_each(|frame| wire.push(frame));
}

fn ms(duration: std::time::Duration) -> Int {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).into()
}

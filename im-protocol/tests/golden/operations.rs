//! Examples of every operation.

use im_core::{ContentType, Role};
use im_protocol::{Id, Level, MemberView, RecordView, ok, op};

use crate::{
    case::{File, file, served, silent},
    people::*,
};

pub(crate) fn files() -> Vec<File> {
    vec![
        hello(),
        send(),
        pull(),
        ack(),
        history(),
        mark_read(),
        set(),
        state(),
        open_single(),
        create_group(),
        join(),
        leave(),
        set_role(),
        conversations(),
        members(),
        ping(),
    ]
}

fn hello() -> File {
    let first = op::Hello {
        token: "eyJhbGciOiJFZERTQSJ9.e30.c2ln".into(),
        device: "web-5f0c".into(),
        platform: Some("web".into()),
        cursor: None,
        state: None,
    };
    let back = op::Hello { cursor: Some(CURSOR.into()), state: Some(BEFORE.into()), ..first.clone() };
    let welcome = ok::Hello {
        user: ALICE.into(),
        session: "019a5b1e-8000-7000-8000-000000000001".into(),
        resync: true,
        end: None,
        state: VERSION.into(),
        time: NOW.into(),
        heartbeat_ms: 30_000_u64.into(),
        read_marks: ok::ReadMarks::PerUser,
        limits: ok::Limits::default(),
        heads: Vec::new(),
    };
    let known = ok::Hello {
        resync: false,
        end: Some(END.into()),
        heads: vec![head(EVERYBODY, 91_204, 90_377)],
        ..welcome.clone()
    };
    let expired = ok::Hello { resync: true, ..known.clone() };
    file(
        "op.hello",
        [
            served("A device that was never here: it bootstraps.", 1, first, &welcome),
            served(
                "It comes back: the end is not its cursor, so it pulls; the state version is another one, so it asks for the state.",
                1,
                back.clone(),
                &known,
            ),
            served("It comes back too late: the cursor cannot be served, it bootstraps.", 1, back, &expired),
        ],
    )
}

fn send() -> File {
    let text = op::Send {
        conversation: SINGLE.into(),
        client_msg_id: msg_id(101),
        content_type: ContentType::Text,
        content: "你好 👋 \"Bob\"\n".into(),
        ack: None,
    };
    let image = op::Send {
        conversation: CIRCLE.into(),
        content_type: ContentType::Image,
        content: r#"{"url":"https://example.com/a.png","w":640,"h":480}"#.into(),
        client_msg_id: msg_id(110),
        ack: Some(Level::Stored),
    };
    let logged = sent(SINGLE, 8, false, Level::Logged);
    let again = sent(SINGLE, 8, true, Level::Logged);
    let stored = sent(CIRCLE, 4, false, Level::Stored);
    file(
        "op.send",
        [
            served("A text.", 7, text.clone(), &logged),
            served("The same again, because the first answer was lost.", 12, text, &again),
            served(
                "An image, whose answer waits for the store; the content is JSON text.",
                13,
                image,
                &stored,
            ),
        ],
    )
}

fn sent(conversation: &str, seq: u64, duplicate: bool, level: Level) -> ok::Send<'_> {
    let created_at = NOW.into();
    ok::Send { conversation: conversation.into(), seq: seq.into(), created_at, duplicate, level }
}

fn pull() -> File {
    let asked = op::Pull { after: CURSOR.into(), max: Some(2_u64.into()) };
    let page = ok::Pull {
        entries: vec![entry(MIDDLE, text(6, 6, "Hello Alice")), entry(END, text(7, 7, "See you at six?"))],
        more: true,
        resync: false,
    };
    let end = op::Pull { after: END.into(), max: None };
    let nothing = ok::Pull { entries: Vec::new(), more: false, resync: false };
    let resync = ok::Pull { resync: true, ..nothing.clone() };
    file(
        "op.pull",
        [
            served("A page; there are more.", 20, asked, &page),
            served("Nothing new.", 21, end.clone(), &nothing),
            served("The cursor cannot be served: bootstrap.", 22, end, &resync),
        ],
    )
}

fn ack() -> File {
    let ack = op::Ack { cursor: END.into() };
    file(
        "op.ack",
        [silent("As usual: no id, no answer.", ack.clone()), served("With an id.", 23, ack, &ok::Ack {})],
    )
}

fn history() -> File {
    let last = op::History {
        conversation: SINGLE.into(),
        from: None,
        to: None,
        max: Some(2_u64.into()),
        backward: true,
    };
    let gap = op::History {
        from: Some(4_u64.into()),
        to: Some(5_u64.into()),
        max: None,
        backward: false,
        ..last.clone()
    };
    let newest = vec![text(6, 6, "Hello Alice"), text(7, 7, "See you at six?")];
    let hole = RecordView { hole_after: Some(4_u64.into()), ..text(1_048_580, 5, "Back again") };
    let far = op::History { from: Some(5_u64.into()), to: Some(1_048_580_u64.into()), ..gap.clone() };
    let read = |about, id, op, records, more| served(about, id, op, &ok::History { records, more });
    file(
        "op.history",
        [
            read("The newest two records; older ones are there.", 30, last, newest, true),
            read(
                "A gap is filled, upwards.",
                31,
                gap,
                vec![text(4, 4, "Are you there?"), text(5, 5, "?")],
                false,
            ),
            read("A record that declares a hole: there never was a 5.", 32, far, vec![hole], false),
        ],
    )
}

fn mark_read() -> File {
    let asked = op::MarkRead { conversation: SINGLE.into(), seq: 7_u64.into() };
    let lower = op::MarkRead { conversation: SINGLE.into(), seq: 3_u64.into() };
    let stands = ok::MarkRead { read: mark(7, 7) };
    file(
        "op.mark_read",
        [
            served("Everything up to 7 was read.", 40, asked, &stands),
            served("It never moves back.", 41, lower, &stands),
        ],
    )
}

fn set() -> File {
    let mute = op::Set {
        conversation: CIRCLE.into(),
        nickname: Some("A.".into()),
        hidden: None,
        undisturbed: Some(true),
        cleared: None,
    };
    let clear = op::Set {
        conversation: SINGLE.into(),
        nickname: Some("".into()),
        hidden: Some(true),
        undisturbed: None,
        cleared: Some(7_u64.into()),
    };
    file(
        "op.set",
        [
            served("A nickname, and no disturbance.", 42, mute, &ok::Set { state: VERSION.into() }),
            served(
                "Without nickname, hidden and cleared up to 7.",
                43,
                clear,
                &ok::Set { state: "7e1d:43".into() },
            ),
        ],
    )
}

fn state() -> File {
    let since = op::State { since: Some(BEFORE.into()) };
    let changes = ok::State { version: VERSION.into(), changes: vec![left()], all: false };
    let all = ok::State { version: VERSION.into(), changes: Vec::new(), all: true };
    file(
        "op.state",
        [
            served("Alice was put out of the circle.", 44, since, &changes),
            served("Too much has changed, or no version was known.", 45, op::State::default(), &all),
        ],
    )
}

fn open_single() -> File {
    let asked = op::OpenSingle { user: BOB.into() };
    let made = ok::OpenSingle { conversation: opened() };
    file("op.open_single", [served("Made just now: nobody wrote yet.", 50, asked, &made)])
}

fn ids(users: &[&'static str]) -> Vec<Id<'static>> {
    users.iter().map(|user| Id::from(*user)).collect()
}

fn create_group() -> File {
    let asked = op::CreateGroup {
        conversation: Some(CIRCLE.into()),
        name: Some("Reading circle".into()),
        members: ids(&[BOB, CAROL]),
        client_msg_id: msg_id(102),
    };
    let unnamed =
        op::CreateGroup { conversation: None, name: None, client_msg_id: msg_id(111), ..asked.clone() };
    let first = sent(CIRCLE, 1, false, Level::Logged);
    let derived = sent("g_2f6c0f5be1d54a7c9e3b8d1a", 1, false, Level::Logged);
    file(
        "op.create_group",
        [
            served("With an id of the client's own.", 51, asked, &first),
            served("The server finds the id; a retry gets the same.", 52, unnamed, &derived),
        ],
    )
}

fn join() -> File {
    let own = op::Join { conversation: CIRCLE.into(), users: None, client_msg_id: msg_id(103) };
    let others = op::Join { users: Some(ids(&[CAROL])), client_msg_id: msg_id(112), ..own.clone() };
    let done = sent(CIRCLE, 5, false, Level::Logged);
    file(
        "op.join",
        [served("Oneself.", 53, own, &done), served("A member brings another one in.", 54, others, &done)],
    )
}

fn leave() -> File {
    let own = op::Leave { conversation: CIRCLE.into(), users: None, client_msg_id: msg_id(104) };
    let others = op::Leave { users: Some(ids(&[CAROL])), client_msg_id: msg_id(113), ..own.clone() };
    let done = sent(CIRCLE, 6, false, Level::Logged);
    file(
        "op.leave",
        [served("Oneself.", 55, own, &done), served("An owner puts a member out.", 56, others, &done)],
    )
}

fn set_role() -> File {
    let asked = op::SetRole {
        conversation: CIRCLE.into(),
        user: BOB.into(),
        role: Role::Admin,
        client_msg_id: msg_id(105),
    };
    file(
        "op.set_role",
        [served("Bob may add and remove.", 57, asked, &sent(CIRCLE, 7, false, Level::Logged))],
    )
}

fn conversations() -> File {
    let fresh = op::Conversations { fresh: true, max: Some(1_u64.into()), ..op::Conversations::default() };
    let first = ok::Conversations {
        conversations: vec![circle()],
        behind: Vec::new(),
        next: Some(CIRCLE.into()),
        cursor: Some(END.into()),
        state: Some(VERSION.into()),
    };
    let after = op::Conversations { after: Some(CIRCLE.into()), ..op::Conversations::default() };
    let late = ok::Conversations { behind: ids(&[SINGLE]), ..ok::Conversations::default() };
    let some = op::Conversations { ids: Some(ids(&[SINGLE])), ..op::Conversations::default() };
    let there = ok::Conversations { conversations: vec![single()], ..ok::Conversations::default() };
    file(
        "op.conversations",
        [
            served("A bootstrap begins.", 60, fresh, &first),
            served(
                "Its next page, the last one: the store is not far enough for one of them.",
                61,
                after,
                &late,
            ),
            served("That one again.", 62, some, &there),
        ],
    )
}

fn members() -> File {
    let asked = op::Members { conversation: CIRCLE.into(), after: None, max: Some(2_u64.into()) };
    let page = ok::Members {
        members: vec![
            MemberView { user: ALICE.into(), role: Role::Owner, nickname: Some("A.".into()) },
            MemberView { user: BOB.into(), role: Role::Member, nickname: None },
        ],
        next: Some(BOB.into()),
    };
    file("op.members", [served("A page; there is another one.", 63, asked, &page)])
}

fn ping() -> File {
    let quiet =
        ok::Ping { time: NOW.into(), end: Some(END.into()), state: VERSION.into(), heads: Vec::new() };
    let moved = ok::Ping { heads: vec![head(EVERYBODY, 91_210, 90_383)], ..quiet.clone() };
    file(
        "op.ping",
        [
            served("A heartbeat.", 70, op::Ping {}, &quiet),
            served("A large group has a new head.", 71, op::Ping {}, &moved),
        ],
    )
}

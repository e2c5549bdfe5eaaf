//! Examples of every event.

use im_protocol::{Draining, Event, Heads, Kicked, RecordView, Signal, StateChanged};

use crate::{
    case::{File, file, said},
    people::*,
};

pub(crate) fn files() -> Vec<File> {
    let kicked = Event::Kicked(Kicked { reason: "replaced".into() });
    let heads = Heads { heads: vec![head(EVERYBODY, 91_210, 90_383)] };
    vec![
        signal(),
        file(
            "ev.state",
            [said(
                "Another device read something.",
                &Event::State(StateChanged { version: "7e1d:43".into() }),
            )],
        ),
        file("ev.heads", [said("A large group has a new head.", &Event::Heads(heads))]),
        file("ev.kicked", [said("A newer session of the same device took the place.", &kicked)]),
        file("ev.draining", [said("The server stops soon.", &Event::Draining(Draining {}))]),
    ]
}

fn signal() -> File {
    let signal =
        |about, end: &'static str, entries| said(about, &Event::Signal(Signal { end: end.into(), entries }));
    let two = vec![
        entry(MIDDLE, text(6, 6, "Hello Alice")),
        entry(END, change(4, 2, r#"{"join":[["carol","member"]]}"#)),
    ];
    let hole = RecordView { hole_after: Some(7_u64.into()), ..text(1_048_583, 8, "Back again") };
    let large = RecordView {
        from: "".into(),
        kind: "large".into(),
        client_msg_id: "large".into(),
        ..change(501, 500, "")
    };
    let later = RecordView { kind: "kind_77".into(), ..text(8, 7, "{}") };
    file(
        "ev.signal",
        [
            signal("Two entries that can be taken at once.", END, two),
            signal("There is something: pull.", END, Vec::new()),
            signal("A record that declares a hole.", END, vec![entry(END, hole)]),
            signal("The group is a large one from here on.", END, vec![entry(END, large)]),
            signal("A kind that the client does not know: taken, not shown.", END, vec![entry(END, later)]),
        ],
    )
}

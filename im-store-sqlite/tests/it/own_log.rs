//! The inbox clauses of the conformance suite. The suite delivers records of a log on paper, and an inbox on SQLite serves only
//! the log of its own file: so each record is put there before it is delivered.

use im_testkit::{CLAUSES, Verdict, certify};

/// What the suite asks for that does not hold here, and why; `tests/inbox.rs` shows what does.
const EXCEPT: &[(&str, &str)] = &[
    (
        "inbox::no_silent_gap",
        "a cursor is the same for all users who have the entry, so another's may be one's own",
    ),
    ("inbox::hostile_ids", "the cursor before everything is the same for all users"),
    ("inbox::an_end_for_everyone", "what expired does not appear again when it is delivered again"),
];

#[test]
fn the_inbox_holds_its_clauses() -> Verdict {
    let clauses = CLAUSES.iter().filter(|clause| clause.needs.contains(&"inbox"));
    for clause in clauses {
        match EXCEPT.iter().find(|(name, _)| *name == clause.name) {
            Some((name, why)) => println!("{name} is not certified: {why}"),
            None => certify(&crate::support::OwnLogFixture, clause.name)?,
        }
    }
    Ok(())
}

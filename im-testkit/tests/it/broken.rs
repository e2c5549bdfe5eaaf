//! Every clause catches the backend that is wrong in what the clause is about, and passes the right one.

use im_testkit::{
    CLAUSES, Fixture, JoinedFixture, MemoryFixture,
    broken::{self, BrokenFixture},
};

#[test]
fn every_clause_has_a_broken_backend() {
    for clause in CLAUSES {
        assert!(broken::all().any(|broken| broken.clause == clause.name), "{} has none", clause.name);
    }
    for broken in broken::all() {
        assert!(CLAUSES.iter().any(|clause| clause.name == broken.clause), "{broken:?} is for no clause");
    }
}

#[test]
fn every_broken_backend_is_caught_and_the_right_one_passes() {
    let mut escaped = Vec::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = broken::all().map(|broken| (broken, scope.spawn(move || run(broken)))).collect();
        for (broken, run) in runs {
            if let Err(why) = run.join().unwrap_or_else(|_| Err("the test died".into())) {
                escaped.push(format!("{broken:?}: {why}"));
            }
        }
    });
    assert!(escaped.is_empty(), "{}", escaped.join("\n"));
}

fn run(broken: &'static broken::Broken) -> Result<(), String> {
    if broken.clause.starts_with("same_data::") {
        run_on(JoinedFixture, broken)
    } else {
        run_on(MemoryFixture, broken)
    }
}

fn run_on(right: impl Fixture, broken: &'static broken::Broken) -> Result<(), String> {
    if let Err(why) = im_testkit::certify(&right, broken.clause) {
        return Err(format!("the right backend does not pass: {why}"));
    }
    match im_testkit::certify(&BrokenFixture::new(right, broken), broken.clause) {
        Ok(()) => Err("was not caught".into()),
        Err(why) => {
            println!("{broken:?}\n    {why}");
            Ok(())
        }
    }
}

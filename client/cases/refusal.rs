/// A refusal as `restores.json` spells it. Included by the tests that take their cases from there.
fn refusal(refused: &NotReachable) -> String {
    match refused {
        NotReachable::NoBackup => "no backup".into(),
        NotReachable::Damaged { .. } => "damaged".into(),
        NotReachable::NewerDamaged { last, .. } => format!("newer damaged, last {last}"),
        NotReachable::NoSuchBackup(_) => "no such backup".into(),
        NotReachable::NotATime(_) => "not a time".into(),
        NotReachable::TooEarly { index, .. } => format!("too early, first {index}"),
        NotReachable::NotYet { until, .. } => format!("not yet, until {until}"),
        NotReachable::TooLate { last, .. } => format!("too late, last {last}"),
        NotReachable::Hole { from, to, .. } => format!("hole {from} to {to}"),
    }
}

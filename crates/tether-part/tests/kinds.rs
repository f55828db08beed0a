//! Parts by themselves: read, compared, written, found by their kind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tether_part::{AnySettings, HasKinds, Kinds, Part, PartProblem, Settings};

trait Filter: AnySettings {
    fn apply(&self, x: f32) -> f32;
}

impl HasKinds for dyn Filter {
    fn built_in() -> &'static Kinds<Self> {
        static KINDS: LazyLock<Kinds<dyn Filter>> = LazyLock::new(|| {
            Kinds::<dyn Filter>::default()
                .with(Gain::KIND, |settings, _| Ok(Arc::new(settings.read::<Gain>()?)))
                .with(Twice::KIND, |mut settings, kinds| {
                    let of = settings.take_part("of", kinds)?;
                    let own: Twice = settings.read()?;
                    Ok(Arc::new(Twice { of: of.unwrap_or(own.of), ..own }))
                })
        });
        &KINDS
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gain {
    by: f32,
}

impl Settings for Gain {
    const KIND: &'static str = "gain";
}

impl Filter for Gain {
    fn apply(&self, x: f32) -> f32 {
        x * self.by
    }
}

fn gain(by: f32) -> Part<dyn Filter> {
    Part::new(Arc::new(Gain { by }), <dyn Filter>::built_in().clone())
}

/// A part that holds another one.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Twice {
    of: Part<dyn Filter>,
    times: Vec<u8>,
}

impl Default for Twice {
    fn default() -> Self {
        Self { of: gain(1.0), times: vec![2] }
    }
}

impl Settings for Twice {
    const KIND: &'static str = "twice";
}

impl Filter for Twice {
    fn apply(&self, x: f32) -> f32 {
        self.of.apply(self.of.apply(x))
    }
}

/// A kind that is not built in.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Offset {
    by: f32,
}

impl Settings for Offset {
    const KIND: &'static str = "offset";
}

impl Filter for Offset {
    fn apply(&self, x: f32) -> f32 {
        x + self.by
    }
}

fn with_offset() -> Kinds<dyn Filter> {
    let mut kinds = <dyn Filter>::built_in().clone();
    kinds.add(Offset::KIND, |settings, _| Ok(Arc::new(settings.read::<Offset>()?))).unwrap();
    kinds
}

#[test]
fn what_is_written_is_read_again() {
    let text =
        r#"{"kind":"twice","of":{"kind":"twice","of":{"kind":"gain","by":0.1},"times":[2]},"times":[3,4]}"#;
    let part: Part<dyn Filter> = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&part).unwrap(), text);
    assert_eq!(part.apply(1.0), 0.1 * 0.1 * 0.1 * 0.1);
    assert_eq!(part.clone(), part);
    assert_eq!(format!("{:?}", gain(2.0)), "Gain { by: 2.0 }");
    // Equal numbers of another kind are another part.
    let offset = with_offset().read(json!({ "kind": "offset", "by": 2.0 })).unwrap();
    assert!(offset != gain(2.0) && gain(2.0) == gain(2.0) && gain(2.0) != gain(3.0));
    assert!(offset.is::<Offset>() && !offset.is::<Gain>() && offset.downcast_ref::<Gain>().is_none());
}

#[test]
fn kinds_are_added_to_one_holder_and_reach_what_is_held() {
    let (mine, built_in) = (with_offset(), <dyn Filter>::built_in());
    assert!(mine.contains("offset") && !built_in.contains("offset"));
    assert_eq!(mine.names().collect::<Vec<_>>(), ["gain", "offset", "twice"]);
    let nested = json!({ "kind": "twice", "of": { "kind": "offset", "by": 1.5 } });
    let part = mine.read(nested.clone()).unwrap();
    assert_eq!(part.apply(0.0), 3.0);
    assert!(part.kinds().contains("offset"));
    let e = built_in.read(nested).unwrap_err();
    assert_eq!(e.path, ["of"]);
    assert!(matches!(&e.problem, PartProblem::UnknownKind { got, .. } if got == "offset"), "{e}");

    let taken = with_offset().add("gain", |_, _| Ok(Arc::new(Offset { by: 0.0 }))).unwrap_err();
    assert_eq!(taken.problem, PartProblem::Taken { kind: "gain" });
    // `with` leaves what is there.
    let same = built_in.with("gain", |_, _| Ok(Arc::new(Offset { by: 0.0 })));
    assert_eq!(same.read(json!({ "kind": "gain", "by": 2.0 })).unwrap(), gain(2.0));
}

#[test]
fn errors_lead_to_the_key() {
    let at = |part| {
        let e = with_offset().read(part).unwrap_err();
        (e.path.join("."), e.to_string())
    };
    let (path, message) = at(json!({ "kind": "twice", "of": { "kind": "gain", "by": "much" } }));
    assert_eq!(path, "of.by");
    assert!(message.starts_with("`of.by`: invalid type: string"), "{message}");
    let (path, message) = at(json!({ "kind": "gain", "bye": 1.0 }));
    assert_eq!((path.as_str(), message.contains("unknown field `bye`")), ("bye", true), "{message}");
    let (path, _) = at(json!({ "kind": "twice", "times": [1, 300] }));
    assert_eq!(path, "times.1");
    assert_eq!(at(json!({ "by": 1.0 })).1, "missing field `kind`, one of `gain`, `offset`, `twice`");
    assert_eq!(at(json!({ "kind": 3 })).1, "missing field `kind`, one of `gain`, `offset`, `twice`");
    assert_eq!(at(json!("gain")).1, "a part is a table with a `kind`");
}

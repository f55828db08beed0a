//! The code's constants against the published configuration.

use serde_json::Value;
use tether_models::{ModelError, PATCH, Schedule, TinyVideo, TinyVideoConfig};

fn config() -> Value {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tinyvideo/config.json"));
    serde_json::from_str(text).expect("valid JSON")
}

#[test]
fn dimensions_are_the_published_ones() {
    let json = config();
    let ours = TinyVideo::bundled().expect("the bundled weights load").config().clone();
    assert_eq!(ours, TinyVideoConfig::default());
    for (name, value) in [
        ("dim", ours.dim),
        ("layers", ours.layers),
        ("heads", ours.heads),
        ("head_dim", ours.head_dim),
        ("ffn", ours.ffn),
        ("freq_dim", ours.freq_dim),
        ("chunk", ours.chunk_frames),
        ("tokens_per_frame", ours.tokens_per_frame),
        ("train_frames", ours.train_frames),
        ("patch", PATCH),
        ("steps", Schedule::STEPS),
    ] {
        assert_eq!(json[name], value, "{name}");
    }
    assert_eq!(ours.chunk_tokens(), 192);
    assert_eq!(ours.chunk_values(), 192 * 48);
}

#[test]
fn schedules_are_the_published_ones() {
    let json = config();
    assert_eq!(json["shift"], Schedule::SHIFT);
    for (name, steps) in [("schedule4", 4), ("schedule", 5), ("schedule8", 8)] {
        let ours = Schedule::shifted(steps, Schedule::SHIFT).expect("in range");
        let theirs: Vec<f64> = serde_json::from_value(json[name].clone()).expect("numbers");
        assert_eq!(ours.times().len(), theirs.len());
        for (a, b) in ours.times().iter().zip(theirs) {
            assert!((f64::from(*a) - b).abs() < 1e-7, "{name}: {a}, not {b}");
        }
    }
    assert_eq!(Schedule::default(), Schedule::shifted(5, 2.0).expect("in range"));
}

#[test]
fn impossible_schedules_are_errors() {
    assert!(matches!(Schedule::shifted(0, 2.0), Err(ModelError::OutOfRange { what: "steps", .. })));
    for shift in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(Schedule::shifted(5, shift), Err(ModelError::OutOfRange { what: "shift", .. })));
    }
}

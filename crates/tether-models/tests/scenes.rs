//! Renderings, metrics and scores against the reference code's.

#[path = "support/golden.rs"]
mod golden;

use golden::{Golden, golden, max_abs_diff};
use tether_models::{
    Blob, Camera, Frame, Scene, Sprite, SpriteColour, SpriteShape, Stripe, frame_metrics, segment_scores,
};

const SCENES: usize = 3;
const SHAPES: [SpriteShape; 3] = [SpriteShape::Disc, SpriteShape::Square, SpriteShape::Diamond];

fn file() -> Golden<'static> {
    Golden::open(golden!("scenes.safetensors"))
}

/// Row `i` of a tensor whose first extent is the scene.
fn row(golden: &Golden<'_>, name: &str, i: usize) -> Vec<f32> {
    let all = golden.f32(name);
    let n = all.len() / SCENES;
    all[i * n..(i + 1) * n].to_vec()
}

fn scene(golden: &Golden<'_>, i: usize) -> Scene {
    let get = |name: &str| row(golden, &format!("scene.{name}"), i);
    let rgb = |name: &str, k: usize| -> [f32; 3] { std::array::from_fn(|c| get(name)[3 * k + c]) };
    let pair = |name: &str, k: usize| -> [f32; 2] { std::array::from_fn(|c| get(name)[2 * k + c]) };
    Scene {
        base: rgb("c0", 0),
        blobs: std::array::from_fn(|k| Blob {
            x: get("bx")[k],
            y: get("by")[k],
            sigma: get("bs")[k],
            colour: rgb("bc", k),
        }),
        stripe: Stripe { fx: get("fx")[0], fy: get("fy")[0], phase: get("fp")[0], colour: rgb("fc", 0) },
        camera: Camera { start: get("cam0")[0], speed: get("camv")[0] },
        sprites: std::array::from_fn(|k| Sprite {
            colour: SpriteColour::ALL[get("col")[k] as usize],
            shape: SHAPES[get("shape")[k] as usize],
            radius: get("rad")[k],
            start: pair("p0", k),
            speed: pair("v", k),
        }),
    }
}

fn damaged(golden: &Golden<'_>, i: usize) -> Vec<Frame> {
    row(golden, "damaged.frames", i)
        .chunks(Frame::LEN)
        .map(|f| Frame::new(f.iter().map(|x| x / 127.5 - 1.0).collect()).expect("a frame"))
        .collect()
}

#[test]
fn frames_match_the_reference() {
    let golden = file();
    let times = golden.f32("render.t");
    for i in 0..SCENES {
        let (scene, want) = (scene(&golden, i), row(&golden, "render.frames", i));
        for (t, want) in times.iter().zip(want.chunks(Frame::LEN)) {
            let error = max_abs_diff(scene.render(*t).values(), want);
            println!("scene {i} at {t}: {error:.1e}");
            assert!(error < 1e-5, "scene {i} at {t}: {error:e}");
        }
    }
}

#[test]
fn world_views_match_the_reference() {
    let golden = file();
    for i in 0..SCENES {
        let (views, want) = (scene(&golden, i).world_views(), row(&golden, "views.frames", i));
        assert_eq!(views.len(), 49);
        for (view, want) in golden.f32("views.index").iter().zip(want.chunks(Frame::LEN)) {
            let error = max_abs_diff(views[*view as usize].values(), want);
            assert!(error < 1e-5, "scene {i}, view {view}: {error:e}");
        }
    }
}

#[test]
fn metrics_match_the_reference() {
    let golden = file();
    for i in 0..SCENES {
        let m = frame_metrics(&scene(&golden, i), &damaged(&golden, i)).expect("a video");
        let all = [
            ("bg_psnr", &m.bg_psnr),
            ("ident", &m.ident),
            ("present", &m.present),
            ("sat", &m.sat),
            ("colour", &m.colour),
            ("motion", &m.motion),
            ("motion_real", &m.motion_real),
        ];
        for (name, got) in all {
            let got: Vec<f32> = got.iter().map(|x| *x as f32).collect();
            let error = max_abs_diff(&got, &row(&golden, &format!("damaged.{name}"), i));
            println!("scene {i} {name}: {error:.1e}");
            assert!(error < 1e-3, "scene {i}, {name}: {error:e}");
        }
    }
}

#[test]
fn segment_scores_match_the_reference() {
    let golden = file();
    let bounds = golden.f32("damaged.bounds");
    for i in 0..SCENES {
        let m = frame_metrics(&scene(&golden, i), &damaged(&golden, i)).expect("a video");
        let scores = segment_scores(&m, 9, 4).expect("long enough");
        assert_eq!(scores.len(), 4);
        for (j, s) in scores.iter().enumerate() {
            assert_eq!([s.start as f32, s.end as f32], bounds[j..j + 2]);
            let all = [
                ("bg_psnr", s.bg_psnr, 1e-3),
                ("ident", s.ident, 1e-3),
                ("colour", s.colour, 1e-3),
                ("sat", s.sat, 1e-3),
                ("motion_ratio", s.motion_ratio, 1e-3),
                // On a scale of 100.
                ("quality", s.quality, 2e-2),
            ];
            for (name, got, tolerance) in all {
                let want = f64::from(row(&golden, &format!("damaged.segment.{name}"), i)[j]);
                assert!((got - want).abs() < tolerance, "scene {i}, segment {j}, {name}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn scenes_survive_serialisation() {
    let scene = scene(&file(), 1);
    let json = serde_json::to_string(&scene).expect("plain data");
    assert_eq!(serde_json::from_str::<Scene>(&json).expect("its own output"), scene);
}

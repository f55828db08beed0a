//! The contact sheet: the real video and every rollout as rows, chosen frames as columns.

use super::canvas::{Canvas, FAINT, INK, MARK, PAPER, text_height, text_width};
use super::experiment::{Experiment, Rgb8Frame};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Picture pixels for each video pixel.
const SCALE: usize = 3;
/// Size of the labels.
const TEXT: usize = 2;
/// Pixels between frames.
const GAP: usize = 3;
/// Pixels around the sheet and between scenes.
const MARGIN: usize = 14;
/// Room between the last given and the first generated column, with the rule in the middle.
const RULE: usize = 14;

/// Frames worth a look: two given ones, then closer together where a recipe's choice first shows and
/// farther apart after, to the last frame.
pub(crate) fn default_sheet_frames(frames: usize, given_frames: usize) -> Vec<usize> {
    let given = [given_frames / 4, given_frames.saturating_sub(1)];
    let after = [2, 5, 8, 11, 17, 29, 41, 53, 65, 89, 113, 137, 161, 185, 209];
    let mut chosen: Vec<usize> = given
        .into_iter()
        .filter(|frame| *frame < given_frames)
        .chain(after.into_iter().map(|offset| given_frames + offset))
        .chain(frames.checked_sub(1))
        .filter(|frame| *frame < frames)
        .collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Writes the sheet with the given frames as columns.
///
/// # Errors
/// When the experiment is incomplete, no column lies within the video, or the file cannot be written.
pub(crate) fn write_sheet(path: &Path, experiment: &Experiment, columns: &[usize]) -> Result<()> {
    let bytes =
        sheet_bytes(experiment, columns).with_context(|| format!("drawing the sheet {}", path.display()))?;
    std::fs::write(path, bytes).with_context(|| format!("writing the sheet {}", path.display()))
}

fn sheet_bytes(experiment: &Experiment, columns: &[usize]) -> Result<Vec<u8>> {
    let canvas = draw(experiment, columns)?;
    let mut bytes = Vec::new();
    let width = u32::try_from(canvas.width()).context("the sheet is too wide")?;
    let height = u32::try_from(canvas.height()).context("the sheet is too high")?;
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::Adaptive);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(canvas.rgb())?;
    writer.finish()?;
    Ok(bytes)
}

fn draw(experiment: &Experiment, columns: &[usize]) -> Result<Canvas> {
    experiment.validate()?;
    let mut columns: Vec<usize> =
        columns.iter().copied().filter(|frame| *frame < experiment.frames).collect();
    columns.sort_unstable();
    columns.dedup();
    ensure!(!columns.is_empty(), "none of the frames asked for is in the video");

    let sample = &experiment.reference[0][0];
    let (cell_width, cell_height) = (sample.width * SCALE, sample.height * SCALE);
    let given = columns.iter().filter(|frame| **frame < experiment.given_frames).count();
    let has_rule = given > 0 && given < columns.len();
    let names = experiment.recipes.iter().map(|recipe| recipe.name.as_str());
    let labels = names.chain(["real", "scene 00"]).map(|name| text_width(name, TEXT)).max().unwrap_or(0);
    let left = MARGIN + labels + MARGIN;
    let x_of = |column: usize| {
        left + column * (cell_width + GAP) + if has_rule && column >= given { RULE } else { 0 }
    };
    let line = text_height(TEXT) + 6;
    let top = MARGIN + 2 * line;
    let scene_height = line + (1 + experiment.recipes.len()) * (cell_height + GAP) + MARGIN;
    let width = x_of(columns.len() - 1) + cell_width + MARGIN;
    let height = top + experiment.scenes * scene_height;

    let mut canvas = Canvas::new(width, height, PAPER);
    // A narrow group has no room for its heading, and the rule says the same.
    let mut heading = |text: &str, colour, from: usize, to: usize| {
        if from < to && text_width(text, TEXT) <= x_of(to - 1) + cell_width - x_of(from) {
            canvas.text(x_of(from), MARGIN, text, TEXT, colour);
        }
    };
    heading("given", MARK, 0, given);
    heading("generated", INK, given, columns.len());
    for (column, frame) in columns.iter().enumerate() {
        let colour = if column < given { MARK } else { INK };
        let centre = x_of(column) + cell_width / 2;
        canvas.text_centred(centre, MARGIN + line, &frame.to_string(), TEXT, colour);
    }
    for scene in 0..experiment.scenes {
        let scene_top = top + scene * scene_height;
        canvas.text(MARGIN, scene_top, &format!("scene {scene}"), TEXT, FAINT);
        let mut rows: Vec<(&str, &[Rgb8Frame])> = vec![("real", &experiment.reference[scene])];
        for recipe in &experiment.recipes {
            if let Some(run) = experiment.run(&recipe.name, scene) {
                rows.push((&recipe.name, &run.frames));
            }
        }
        for (row, (name, frames)) in rows.into_iter().enumerate() {
            let y = scene_top + line + row * (cell_height + GAP);
            let colour = if row == 0 { FAINT } else { INK };
            canvas.text(
                MARGIN,
                y + (cell_height - text_height(TEXT).min(cell_height)) / 2,
                name,
                TEXT,
                colour,
            );
            for (column, frame) in columns.iter().enumerate() {
                canvas.frame(x_of(column), y, &frames[*frame], SCALE);
            }
        }
    }
    if has_rule {
        let x = x_of(given) - RULE / 2 - GAP / 2 - 1;
        canvas.fill(x, MARGIN, 2, height - 2 * MARGIN, MARK);
    }
    Ok(canvas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::synthetic::experiment;

    #[test]
    fn chosen_frames_fit_the_video() {
        assert_eq!(
            default_sheet_frames(240, 9),
            [2, 8, 11, 14, 17, 20, 26, 38, 50, 62, 74, 98, 122, 146, 170, 194, 218, 239]
        );
        assert_eq!(default_sheet_frames(20, 9), [2, 8, 11, 14, 17, 19]);
        assert_eq!(default_sheet_frames(5, 0), [2, 4]);
        assert_eq!(default_sheet_frames(1, 1), [0]);
        assert_eq!(default_sheet_frames(0, 0), [0_usize; 0]);
    }

    #[test]
    fn the_png_has_the_size_of_its_rows_and_columns() {
        let e = experiment(2, 40);
        let bytes = sheet_bytes(&e, &[2, 8, 20, 39, 400]).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let picture = reader.next_frame(&mut rgb).unwrap();
        let pixel = |x: usize, y: usize| &rgb[(y * picture.width as usize + x) * 3..][..3];
        let labels = text_width("uniform-archive", TEXT);
        let rows = 1 + e.recipes.len();
        let line = text_height(TEXT) + 6;
        assert_eq!(picture.width as usize, MARGIN + labels + MARGIN + 4 * 96 + 3 * GAP + RULE + MARGIN);
        assert_eq!(picture.height as usize, MARGIN + 2 * line + 2 * (line + rows * (96 + GAP) + MARGIN));
        // The first cell of the first row is the real video's frame 2, the rule follows the second.
        let (x, y) = (MARGIN + labels + MARGIN, MARGIN + 3 * line);
        let corner = &e.reference[0][2].rgb[..3];
        assert_eq!(pixel(x, y), corner);
        let rule = x + 2 * (96 + GAP) + RULE / 2 - GAP / 2 - 1;
        assert_eq!(pixel(rule, y), MARK);
    }

    #[test]
    fn the_same_experiment_gives_the_same_bytes() {
        let one = sheet_bytes(&experiment(1, 20), &[1, 10, 19]).unwrap();
        assert_eq!(one, sheet_bytes(&experiment(1, 20), &[1, 10, 19]).unwrap());
        assert_ne!(one, sheet_bytes(&experiment(1, 20), &[1, 11, 19]).unwrap());
    }

    #[test]
    fn a_sheet_without_columns_is_an_error() {
        let error = sheet_bytes(&experiment(1, 20), &[20, 30]).unwrap_err();
        assert!(error.to_string().contains("none of the frames"));
    }
}

//! The side-by-side animation: the real video and every recipe's continuation of it.

use super::canvas::{Canvas, FAINT, INK, MARK, PAPER, Rgb, text_height, text_width};
use super::experiment::{Experiment, Rgb8Frame};
use super::font::{ADVANCE, wrap};
use ::gif::{DisposalMethod, Encoder, Frame, Repeat};
use anyhow::{Context, Result, ensure};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// Pixels around and between the columns.
const GAP: usize = 6;
/// Size of the labels.
const TEXT: usize = 2;
/// Pixels down the bar that shows how far the video has come.
const BAR: usize = 4;
/// How long the last frame stays, in hundredths of a second, so that a loop has a visible end.
const HOLD: u16 = 150;
/// Colours of the labels, kept exact in the palette.
const LABEL_COLOURS: [Rgb; 4] = [PAPER, INK, FAINT, MARK];
/// Colours in a GIF palette. The last is not a colour but "as in the frame before".
const PALETTE: usize = 256;
const UNCHANGED: u8 = 255;
/// Pixels that the palette is fitted to; the quantiser takes them as one row of a picture.
const SAMPLE: usize = 60_000;

/// Beyond this an animation jumps more than it moves.
const MAX_STRIDE: usize = 4;

/// How to draw the animation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GifOptions {
    /// Picture pixels for each video pixel.
    pub(crate) scale: usize,
    /// Shows every so manieth frame.
    pub(crate) stride: usize,
    /// Video frames a second; the stride does not change the pace.
    pub(crate) fps: usize,
    /// A larger file is drawn again with the next stride, up to [`MAX_STRIDE`].
    pub(crate) max_bytes: usize,
}

impl Default for GifOptions {
    fn default() -> Self {
        Self { scale: 5, stride: 1, fps: 12, max_bytes: 6_000_000 }
    }
}

/// Writes the animation of one scene, and returns the stride that it took to keep to the size.
///
/// # Errors
/// When the experiment is incomplete, the scene is not in it, the picture would be too large for a GIF, or
/// the file cannot be written.
pub(crate) fn write_gif(
    path: &Path,
    experiment: &Experiment,
    scene: usize,
    options: GifOptions,
) -> Result<usize> {
    let (bytes, stride) = fitting_gif(experiment, scene, options)
        .with_context(|| format!("drawing the animation {}", path.display()))?;
    std::fs::write(path, bytes).with_context(|| format!("writing the animation {}", path.display()))?;
    Ok(stride)
}

fn fitting_gif(experiment: &Experiment, scene: usize, mut options: GifOptions) -> Result<(Vec<u8>, usize)> {
    loop {
        let bytes = gif_bytes(experiment, scene, options)?;
        if bytes.len() <= options.max_bytes || options.stride >= MAX_STRIDE {
            return Ok((bytes, options.stride));
        }
        // Noise defeats the compression of a GIF, so the size is known only after the fact.
        options.stride += 1;
    }
}

/// One column of the animation.
struct Column<'a> {
    label: Vec<String>,
    frames: &'a [Rgb8Frame],
}

fn gif_bytes(experiment: &Experiment, scene: usize, options: GifOptions) -> Result<Vec<u8>> {
    experiment.validate()?;
    ensure!(scene < experiment.scenes, "there is no scene {scene}, only {}", experiment.scenes);
    ensure!(
        options.scale > 0 && options.stride > 0 && options.fps > 0,
        "the scale, the stride and the frame rate must be at least 1"
    );
    let real = &experiment.reference[scene];
    let letters = real[0].width.saturating_mul(options.scale).saturating_add(GAP) / (ADVANCE * TEXT);
    let mut columns = vec![Column { label: wrap("real", letters), frames: real }];
    for recipe in &experiment.recipes {
        if let Some(run) = experiment.run(&recipe.name, scene) {
            columns.push(Column { label: wrap(&recipe.name, letters), frames: &run.frames });
        }
    }

    let (width, height) = size(&columns, options.scale);
    let (Ok(gif_width), Ok(gif_height)) = (u16::try_from(width), u16::try_from(height)) else {
        anyhow::bail!("{width}x{height} pixels are more than a GIF can hold");
    };
    let background = background(&columns, options.scale);
    let palette = Palette::fit(&columns)?;

    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, gif_width, gif_height, &palette.rgb)?;
    encoder.set_repeat(Repeat::Infinite)?;
    let mut lookup = Lookup { palette: &palette, known: HashMap::new() };
    let mut before: Option<Vec<u8>> = None;
    let stride = options.stride.min(experiment.frames);
    let shown: Vec<usize> = (0..experiment.frames).step_by(stride).collect();
    for (position, index) in shown.iter().copied().enumerate() {
        let mut canvas = background.clone();
        draw(&mut canvas, experiment, &columns, index, options.scale);
        let now = lookup.indices(&canvas);
        let mut frame = match &before {
            None => Frame {
                width: gif_width,
                height: gif_height,
                buffer: Cow::Borrowed(&now),
                ..Frame::default()
            },
            Some(before) => changed_part(before, &now, width),
        };
        frame.dispose = DisposalMethod::Keep;
        // Times count from the start, so that rounding to hundredths does not add up over a video.
        let due = |position: usize| (position * stride * 100 + options.fps / 2) / options.fps;
        frame.delay = u16::try_from(due(position + 1) - due(position)).unwrap_or(u16::MAX);
        if position + 1 == shown.len() {
            frame.delay = frame.delay.max(HOLD);
        }
        encoder.write_frame(&frame)?;
        drop(frame);
        before = Some(now);
    }
    drop(encoder);
    Ok(bytes)
}

/// Pixels across and down the whole picture.
fn size(columns: &[Column<'_>], scale: usize) -> (usize, usize) {
    let first = &columns[0].frames[0];
    let column = |pixels: usize| pixels.saturating_mul(scale).saturating_add(GAP);
    // Room for the longest line at the bottom even when there are few columns.
    let caption = text_width("frame 0000/0000 (generated)", TEXT) + 2 * GAP;
    let width = columns.len().saturating_mul(column(first.width)).saturating_add(GAP).max(caption);
    let footer = BAR + GAP + text_height(TEXT) + GAP;
    (width, column(first.height).saturating_add(header(columns) + footer))
}

/// Everything that stays the same: the paper and the labels above the columns.
fn background(columns: &[Column<'_>], scale: usize) -> Canvas {
    let (width, height) = size(columns, scale);
    let mut canvas = Canvas::new(width, height, PAPER);
    let column_width = columns[0].frames[0].width * scale;
    for (position, column) in columns.iter().enumerate() {
        let centre = GAP + position * (column_width + GAP) + column_width / 2;
        let colour = if position == 0 { FAINT } else { INK };
        for (line, text) in column.label.iter().enumerate() {
            canvas.text_centred(centre, GAP + line * line_height(), text, TEXT, colour);
        }
    }
    canvas
}

fn line_height() -> usize {
    text_height(TEXT) + 4
}

fn header(columns: &[Column<'_>]) -> usize {
    let lines = columns.iter().map(|column| column.label.len()).max().unwrap_or(0);
    GAP + lines * line_height()
}

/// Adds what changes: the frames, the bar, the frame number.
fn draw(canvas: &mut Canvas, experiment: &Experiment, columns: &[Column<'_>], index: usize, scale: usize) {
    let given = index < experiment.given_frames;
    let top = header(columns);
    let first = &columns[0].frames[0];
    let (column_width, column_height) = (first.width * scale, first.height * scale);
    for (position, column) in columns.iter().enumerate() {
        let x = GAP + position * (column_width + GAP);
        if given && position > 0 {
            // A frame around what the recipe was given and did not make.
            canvas.fill(x - 2, top - 2, column_width + 4, column_height + 4, MARK);
        }
        canvas.frame(x, top, &column.frames[index], scale);
    }
    let bar = top + column_height + GAP;
    let length = canvas.width() - 2 * GAP;
    let reach = |frames: usize| length * frames / experiment.frames;
    canvas.fill(GAP, bar, length, BAR, FAINT);
    canvas.fill(GAP, bar, reach(index + 1), BAR, INK);
    canvas.fill(GAP, bar, reach(experiment.given_frames.min(index + 1)), BAR, MARK);
    let last = experiment.frames - 1;
    let (state, colour) = if given { ("given", MARK) } else { ("generated", INK) };
    let digits = last.to_string().len();
    let caption = format!("frame {index:digits$}/{last} ({state})");
    canvas.text(GAP, bar + BAR + GAP, &caption, TEXT, colour);
}

/// The rectangle that differs from the frame before, with pixels that do not differ left out.
fn changed_part(before: &[u8], now: &[u8], width: usize) -> Frame<'static> {
    let (mut left, mut right, mut top, mut bottom) = (usize::MAX, 0, usize::MAX, 0);
    for (position, (a, b)) in before.iter().zip(now).enumerate() {
        if a != b {
            let (x, y) = (position % width, position / width);
            (left, right) = (left.min(x), right.max(x));
            (top, bottom) = (top.min(y), bottom.max(y));
        }
    }
    if left > right {
        // Nothing changed; a frame still has to pass the time.
        (left, right, top, bottom) = (0, 0, 0, 0);
    }
    let mut buffer = Vec::with_capacity((right - left + 1) * (bottom - top + 1));
    for y in top..=bottom {
        for position in y * width + left..=y * width + right {
            buffer.push(if before[position] == now[position] { UNCHANGED } else { now[position] });
        }
    }
    // The whole picture fits in u16, so its parts do.
    Frame {
        left: left as u16,
        top: top as u16,
        width: (right - left + 1) as u16,
        height: (bottom - top + 1) as u16,
        transparent: Some(UNCHANGED),
        buffer: Cow::Owned(buffer),
        ..Frame::default()
    }
}

/// One palette for the whole animation.
///
/// A palette fitted to each frame would make still parts flicker, and flicker is one of the faults that a
/// viewer looks for.
struct Palette {
    rgb: Vec<u8>,
}

impl Palette {
    fn fit(columns: &[Column<'_>]) -> Result<Self> {
        let pixels =
            || columns.iter().flat_map(|column| column.frames).flat_map(|frame| frame.rgb.chunks_exact(3));
        let every = pixels().count().div_ceil(SAMPLE).max(1);
        let sample: Vec<u8> = pixels().step_by(every).flatten().copied().collect();
        let count = sample.len() / 3;
        let row = u16::try_from(count).context("the palette sample is too long")?;
        let fitted = Frame::from_rgb_speed(row, 1, &sample, 5);
        let mut used = [0_usize; PALETTE];
        for index in fitted.buffer.iter() {
            used[usize::from(*index)] += 1;
        }
        let fitted: Vec<Rgb> =
            fitted.palette.unwrap_or_default().chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
        let mut order: Vec<usize> = (0..fitted.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(used[*index]));
        order.truncate(PALETTE - 1 - LABEL_COLOURS.len());
        let mut rgb: Vec<u8> =
            LABEL_COLOURS.into_iter().chain(order.into_iter().map(|i| fitted[i])).flatten().collect();
        rgb.resize(PALETTE * 3, 0);
        Ok(Self { rgb })
    }

    fn nearest(&self, colour: Rgb) -> u8 {
        let distance = |candidate: &[u8]| -> i32 {
            candidate.iter().zip(colour).map(|(a, b)| (i32::from(*a) - i32::from(b)).pow(2)).sum()
        };
        let colours = self.rgb.chunks_exact(3).take(usize::from(UNCHANGED));
        // The palette has no more than 255 colours here, so the index fits.
        colours
            .enumerate()
            .min_by_key(|(_, candidate)| distance(candidate))
            .map_or(0, |(index, _)| index as u8)
    }
}

/// Finds palette entries, each colour once.
struct Lookup<'a> {
    palette: &'a Palette,
    known: HashMap<Rgb, u8>,
}

impl Lookup<'_> {
    fn indices(&mut self, canvas: &Canvas) -> Vec<u8> {
        let mut indices = Vec::with_capacity(canvas.width() * canvas.height());
        let mut last: Option<(Rgb, u8)> = None;
        for pixel in canvas.rgb().chunks_exact(3) {
            let colour = [pixel[0], pixel[1], pixel[2]];
            let index = match last {
                Some((same, index)) if same == colour => index,
                _ => *self.known.entry(colour).or_insert_with(|| self.palette.nearest(colour)),
            };
            last = Some((colour, index));
            indices.push(index);
        }
        indices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::synthetic::experiment;
    use ::gif::{ColorOutput, DecodeOptions};

    /// The full pictures that a viewer would show, and their delays.
    fn decode(bytes: &[u8]) -> (usize, usize, Vec<(Vec<u8>, u16)>) {
        let mut options = DecodeOptions::new();
        options.set_color_output(ColorOutput::RGBA);
        let mut decoder = options.read_info(bytes).unwrap();
        let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
        let mut screen = vec![0; width * height * 3];
        let mut shown = Vec::new();
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            for (position, pixel) in frame.buffer.chunks_exact(4).enumerate() {
                let x = usize::from(frame.left) + position % usize::from(frame.width);
                let y = usize::from(frame.top) + position / usize::from(frame.width);
                if pixel[3] != 0 {
                    screen[(y * width + x) * 3..][..3].copy_from_slice(&pixel[..3]);
                }
            }
            shown.push((screen.clone(), frame.delay));
        }
        (width, height, shown)
    }

    #[test]
    fn it_decodes_to_the_right_size_and_number_of_frames() {
        let e = experiment(1, 30);
        let options = GifOptions { scale: 2, stride: 1, ..GifOptions::default() };
        let (width, height, shown) = decode(&gif_bytes(&e, 0, options).unwrap());
        assert_eq!(width, GAP + (e.recipes.len() + 1) * (64 + GAP));
        assert!(height > 64 + text_height(TEXT) * 2);
        assert_eq!(shown.len(), 30);
        let total: usize = shown[..29].iter().map(|(_, delay)| usize::from(*delay)).sum();
        assert_eq!(total, 242, "29 frames at 12 a second take 2.42 s");
        assert!(shown[29].1 >= HOLD);
    }

    #[test]
    fn a_stride_drops_frames_and_keeps_the_pace() {
        let options = GifOptions { scale: 1, stride: 4, ..GifOptions::default() };
        let (_, _, shown) = decode(&gif_bytes(&experiment(1, 30), 0, options).unwrap());
        assert_eq!(shown.len(), 8);
        let total: usize = shown[..7].iter().map(|(_, delay)| usize::from(*delay)).sum();
        assert_eq!(total, 233, "28 frames at 12 a second take 2.33 s");
    }

    #[test]
    fn a_file_that_is_too_large_gets_a_longer_stride() {
        let e = experiment(1, 24);
        let options = GifOptions { scale: 1, ..GifOptions::default() };
        let whole = gif_bytes(&e, 0, options).unwrap();
        let fit = |max_bytes| fitting_gif(&e, 0, GifOptions { max_bytes, ..options }).unwrap();
        assert_eq!(fit(whole.len()), (whole.clone(), 1));
        let (bytes, stride) = fit(whole.len() - 1);
        assert_eq!(stride, 2);
        assert!(bytes.len() < whole.len());
        assert_eq!(fit(1).1, MAX_STRIDE, "it gives up in the end and keeps what it has");
    }

    #[test]
    fn every_frame_shows_the_video_close_to_its_colours() {
        let e = experiment(1, 20);
        let scale = 3;
        let (width, _, shown) =
            decode(&gif_bytes(&e, 0, GifOptions { scale, stride: 1, ..GifOptions::default() }).unwrap());
        let columns = [&e.reference[0], &e.run("fifo", 0).unwrap().frames];
        let letters = (32 * scale + GAP) / (ADVANCE * TEXT);
        let lines = e.recipes.iter().map(|recipe| wrap(&recipe.name, letters).len()).max().unwrap();
        let top = GAP + lines * line_height();
        for (index, (screen, _)) in shown.iter().enumerate() {
            for (position, frames) in columns.iter().enumerate() {
                let left = GAP + position * (32 * scale + GAP);
                let mut error = 0.0;
                for (pixel, rgb) in frames[index].rgb.chunks_exact(3).enumerate() {
                    let (x, y) = (left + pixel % 32 * scale + 1, top + pixel / 32 * scale + 1);
                    let seen = &screen[(y * width + x) * 3..][..3];
                    error += seen.iter().zip(rgb).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
                }
                assert!(error / 3072.0 < 8.0, "frame {index}: mean error {}", error / 3072.0);
            }
        }
    }

    #[test]
    fn given_frames_are_marked() {
        let e = experiment(1, 20);
        let (_, _, shown) =
            decode(&gif_bytes(&e, 0, GifOptions { scale: 1, stride: 1, ..GifOptions::default() }).unwrap());
        let marked = |screen: &[u8]| screen.chunks_exact(3).filter(|pixel| *pixel == MARK.as_slice()).count();
        let given = marked(&shown[e.given_frames - 1].0);
        let generated = marked(&shown[e.given_frames].0);
        assert!(given > generated + 200, "{given} marked pixels while given, {generated} after");
        assert!(generated > 0, "the bar keeps its given part");
    }

    #[test]
    fn the_same_experiment_gives_the_same_bytes() {
        let options = GifOptions { scale: 1, stride: 3, ..GifOptions::default() };
        let one = gif_bytes(&experiment(2, 20), 1, options).unwrap();
        assert_eq!(one, gif_bytes(&experiment(2, 20), 1, options).unwrap());
        assert_ne!(one, gif_bytes(&experiment(2, 20), 0, options).unwrap());
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let e = experiment(1, 20);
        let options = GifOptions::default();
        assert!(gif_bytes(&e, 1, options).unwrap_err().to_string().contains("no scene 1"));
        assert!(gif_bytes(&e, 0, GifOptions { stride: 0, ..options }).is_err());
        for scale in [700, usize::MAX] {
            let huge = gif_bytes(&e, 0, GifOptions { scale, ..options }).unwrap_err();
            assert!(huge.to_string().contains("more than a GIF can hold"));
        }
        let missing =
            write_gif(Path::new("/no/such/folder/a.gif"), &e, 0, GifOptions { scale: 1, ..options });
        assert!(format!("{:#}", missing.unwrap_err()).contains("/no/such/folder/a.gif"));
    }
}

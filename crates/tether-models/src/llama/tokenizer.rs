//! Text to token ids and back, with the byte-pair encoding that a GGUF file carries.

use ahash::AHashMap;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{
    AddedToken, DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    Tokenizer,
};

use super::gguf::{GgufFile, GgufValue, metadata};
use crate::ModelError;

/// The type that files give to tokens which are pieces of text.
const NORMAL: i64 = 1;
/// The type of the token for what there is no other for.
const UNKNOWN: i64 = 2;
/// The type of tokens which stand for no text.
const CONTROL: i64 = 3;
/// The type of tokens that are never split.
const USER_DEFINED: i64 = 4;

/// How Llama 3's tokenizer cuts a text before it merges bytes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What `SentencePiece` writes for a space.
const SPACE: &str = "\u{2581}";

/// A file's byte-pair encoding: of bytes ("gpt2" in GGUF), or `SentencePiece`'s of characters with bytes for those that it lacks ("llama").
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    turns: bool,
    /// Whether texts are read as if a space stood before them.
    space_first: bool,
}

fn problem(error: impl std::fmt::Display) -> ModelError {
    ModelError::Tokenizer { problem: error.to_string() }
}

impl TextTokenizer {
    /// Builds the tokenizer of `file`.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] for settings that are missing or malformed, [`ModelError::Tokenizer`] for kinds of tokenizers other
    /// than byte-pair encodings, ways to cut a text that are not known, and merges of tokens that there are not.
    pub fn load(file: &GgufFile) -> Result<Self, ModelError> {
        let tokens = file.texts("tokenizer.ggml.tokens")?;
        if tokens.is_empty() {
            return Err(metadata("tokenizer.ggml.tokens", "is missing"));
        }
        let types =
            file.list("tokenizer.ggml.token_type", "must be a list of whole numbers", |v| match v {
                GgufValue::I32(x) => Some(i64::from(*x)),
                GgufValue::U32(x) => Some(i64::from(*x)),
                _ => None,
            })?;
        let (mut tokenizer, space_first) = match file.text("tokenizer.ggml.model")?.unwrap_or_default() {
            "gpt2" => (of_bytes(file, &tokens)?, false),
            "llama" => {
                let space_first = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
                (of_pieces(file, &tokens, &types, space_first)?, space_first)
            }
            kind => {
                return Err(problem(format!(
                    "kind {kind:?} is not implemented, only \"gpt2\" and \"llama\""
                )));
            }
        };
        let whole = tokens.iter().zip(&types).filter(|(token, _)| !token.is_empty());
        let added = whole.filter_map(|(token, kind)| match *kind {
            CONTROL => Some(AddedToken::from(*token, true)),
            USER_DEFINED => Some(AddedToken::from(*token, false).normalized(false)),
            _ => None,
        });
        tokenizer.add_tokens(added).map_err(problem)?;
        // What a text says is not an instruction: control tokens come from their ids only.
        tokenizer.set_encode_special_tokens(true);
        let id = |key| -> Result<Option<u32>, ModelError> {
            match file.count(key)? {
                Some(id) if id >= tokens.len() => Err(metadata(key, "must be a token's id")),
                id => Ok(id.map(|id| id as u32)),
            }
        };
        let turns = file.text("tokenizer.chat_template")?.is_some_and(|t| t.contains("<|im_start|>"))
            && tokens.contains(&"<|im_start|>")
            && tokens.contains(&"<|im_end|>");
        Ok(Self {
            tokenizer,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            turns,
            space_first,
        })
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends an answer.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Ids of a text's tokens. Control tokens that the text spells out are text, and none is added.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] for text that the vocabulary cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let spaced = (self.space_first && !text.is_empty()).then(|| format!(" {text}"));
        let text = spaced.as_deref().unwrap_or(text);
        Ok(self.tokenizer.encode_fast(text, false).map_err(problem)?.get_ids().to_vec())
    }

    /// [`encode`](Self::encode) after the token that begins a sequence, where there is one.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_start(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let text = self.encode(text)?;
        Ok(self.bos.into_iter().chain(text).collect())
    }

    /// A user's turn in a conversation and the head of the answer, for models whose template has `<|im_start|>` turns; `None` for others.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_turn(&self, message: &str) -> Result<Option<Vec<u32>>, ModelError> {
        let id = |token| self.tokenizer.token_to_id(token);
        let (Some(start), Some(end), true) = (id("<|im_start|>"), id("<|im_end|>"), self.turns) else {
            return Ok(None);
        };
        let mut ids = vec![start];
        ids.extend(self.encode(&format!("user\n{message}"))?);
        ids.push(end);
        ids.extend(self.encode("\n")?);
        ids.push(start);
        ids.extend(self.encode("assistant\n")?);
        Ok(Some(ids))
    }

    /// The text of some tokens, control tokens left out. Bytes that are no UTF-8 become replacement characters.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.tokenizer.decode(ids, true).map_err(problem)
    }

    /// Text token by token.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream(self.tokenizer.decode_stream(true))
    }
}

/// Turns tokens into text as they come.
pub struct TextStream<'t>(
    DecodeStream<
        't,
        ModelWrapper,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >,
);

impl std::fmt::Debug for TextStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextStream").finish_non_exhaustive()
    }
}

impl TextStream<'_> {
    /// The text that token `id` completes; empty while it is inside a character.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        Ok(self.0.step(id).map_err(problem)?.unwrap_or_default())
    }
}

fn vocabulary(tokens: &[&str]) -> Result<AHashMap<String, u32>, ModelError> {
    let ids = |(id, token): (usize, &&str)| u32::try_from(id).map(|id| ((*token).to_owned(), id));
    tokens.iter().enumerate().map(ids).collect::<Result<_, _>>().map_err(problem)
}

/// A byte-level byte-pair encoding, with its merges listed.
fn of_bytes(file: &GgufFile, tokens: &[&str]) -> Result<Tokenizer, ModelError> {
    let vocabulary = vocabulary(tokens)?;
    let merges = merges(&file.texts("tokenizer.ggml.merges")?, &vocabulary)?;
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).build().map_err(problem)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(cuts(file.text("tokenizer.ggml.pre")?.unwrap_or("default"))?));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// `SentencePiece`'s byte-pair encoding: any two neighbours that together are a piece may merge, the piece of the best score first. Texts are
/// not cut beforehand; spaces are pieces' own.
fn of_pieces(
    file: &GgufFile,
    tokens: &[&str],
    types: &[i64],
    space_first: bool,
) -> Result<Tokenizer, ModelError> {
    let scores = file.list("tokenizer.ggml.scores", "must be a list of numbers", |v| match v {
        GgufValue::F32(x) if !x.is_nan() => Some(*x),
        _ => None,
    })?;
    for (key, len) in [("tokenizer.ggml.scores", scores.len()), ("tokenizer.ggml.token_type", types.len())] {
        if len != tokens.len() {
            return Err(metadata(key, "must have an entry for each token"));
        }
    }
    let unknown = types.iter().position(|kind| *kind == UNKNOWN).map(|id| tokens[id].to_owned());
    let vocabulary = vocabulary(tokens)?;
    let is_piece = |id: usize| matches!(types[id], NORMAL | USER_DEFINED);
    let half = |text: &str| vocabulary.get(text).is_some_and(|id| is_piece(*id as usize));
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| is_piece(*id)) {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let known = cuts.filter(|(a, b)| half(a) && half(b));
        merges.extend(known.map(|(a, b)| (scores[id], (a.to_owned(), b.to_owned()))));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let merges = merges.into_iter().map(|(_, halves)| halves).collect();
    let mut model = BPE::builder().vocab_and_merges(vocabulary, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(unknown);
    }
    let mut tokenizer = Tokenizer::new(model.build().map_err(problem)?);
    tokenizer.with_normalizer(Some(Replace::new(" ", SPACE).map_err(problem)?)).map_err(problem)?;
    let mut read: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(problem)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if space_first {
        read.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Decoders::new(read)));
    Ok(tokenizer)
}

/// Pairs of tokens that are merged, most urgent first.
fn merges(lines: &[&str], vocabulary: &AHashMap<String, u32>) -> Result<Vec<(String, String)>, ModelError> {
    let mut merged = String::new();
    let pair = |line: &&str| {
        let (a, b) = line.split_once(' ').unwrap_or((line, ""));
        merged.clear();
        merged.extend([a, b]);
        if [a, b, &merged].iter().any(|token| !vocabulary.contains_key(*token)) {
            return Err(problem(format!("merge {line:?} is not of tokens, or does not make one")));
        }
        Ok((a.to_owned(), b.to_owned()))
    };
    lines.iter().map(pair).collect()
}

/// How a text is cut before bytes are merged, by the name that GGUF has for it.
///
/// "smollm" is cut as transformers cuts it when it reads a GGUF file, which is what published numbers of such files rest on. llama.cpp sets
/// every digit apart first; in these vocabularies no token has two digits, so the two differ only in white space that a digit follows.
fn cuts(name: &str) -> Result<PreTokenizerWrapper, ModelError> {
    let bytes = |cut| PreTokenizerWrapper::from(ByteLevel::new(false, true, cut));
    let sequence = |parts| PreTokenizerWrapper::from(Sequence::new(parts));
    Ok(match name {
        "default" | "gpt-2" | "smollm" => bytes(true),
        "starcoder" | "refact" | "codeshell" => sequence(vec![Digits::new(true).into(), bytes(true)]),
        "llama3" | "llama-v3" | "llama-bpe" => {
            let pattern = SplitPattern::Regex(LLAMA3.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(problem)?;
            sequence(vec![split.into(), bytes(false)])
        }
        other => return Err(problem(format!("how {other:?} cuts a text is not known"))),
    })
}

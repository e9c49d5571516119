//! Token ids of lines to the rows that are trained on: cut to a length, or joined up to it, cleaned, counted.
//!
//! The rules of mode [`Mode::Lines`] are those of the original `DistilBERT` code: a line with its `[CLS]` and `[SEP]` that
//! is longer than `max_length` is cut, those two included, every `max_length - 2` tokens, and each piece gets the
//! `[CLS]` and `[SEP]` it lacks; then short rows are dropped, then those with too large a share of `[UNK]`.

use crate::error::{Error, Result};
use crate::text::wordpiece::ids::TokenId;

/// What a row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One line; a line that is too long gives several rows.
    Lines,
    /// Lines of one document, joined whole as long as they fit.
    Packed,
}

/// How rows are made; the same for a whole data set.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What a row is made of.
    pub mode: Mode,
    /// Most tokens of a row, `[CLS]` and `[SEP]` included; at least 3.
    pub max_length: usize,
    /// Fewest tokens of a row that is kept, `[CLS]` and `[SEP]` included.
    pub min_length: usize,
    /// Share of `[UNK]` in a row, of all its tokens, from which on it is dropped.
    pub max_unknown: f64,
    /// Id put before every row.
    pub cls_id: u32,
    /// Id put after every row.
    pub sep_id: u32,
    /// Id of an unknown word, if the vocabulary has one.
    pub unk_id: Option<u32>,
    /// Number of ids; every id is below it.
    pub vocab_size: usize,
}

/// Rows as one list array: row `i` is `ids[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutRows<T> {
    /// Token ids of all rows, end to end.
    pub ids: Vec<T>,
    /// Where each row begins, and the end of the last.
    pub offsets: Vec<i32>,
}

/// What became of the lines so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Lines taken in.
    pub lines: u64,
    /// Rows given out.
    pub rows: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Rows dropped for having fewer than `min_length` tokens.
    pub dropped_short: u64,
    /// Rows dropped for their share of `[UNK]`.
    pub dropped_unknown: u64,
    /// How often each id occurs in the rows given out, by id.
    pub token_counts: Vec<i64>,
}

/// Turns lines into rows, block after block; the joined row in progress is carried from one block to the next.
#[derive(Debug)]
pub struct RowCutter<T> {
    rules: Rules,
    cls_id: T,
    sep_id: T,
    open: Vec<T>,
    totals: Totals,
}

impl<T: TokenId> RowCutter<T> {
    /// A cutter that has seen nothing; refuses rules that no row could follow.
    pub fn new(rules: Rules) -> Result<Self> {
        if rules.max_length < 3 {
            return Err(Error::invalid(format!(
                "max_length {} leaves no room for a token between [CLS] and [SEP]; it must be at least 3",
                rules.max_length
            )));
        }
        if rules.min_length > rules.max_length {
            return Err(Error::invalid(format!(
                "min_length {} is above max_length {}: every row would be dropped",
                rules.min_length, rules.max_length
            )));
        }
        if rules.max_unknown.is_nan() || rules.max_unknown <= 0.0 {
            return Err(Error::invalid(format!(
                "max_unknown {} would drop every row; it is a share of the row above 0, and above 1 nothing is dropped",
                rules.max_unknown
            )));
        }
        let id = |name: &str, value: u32| {
            if value as usize >= rules.vocab_size {
                let size = rules.vocab_size;
                return Err(Error::invalid(format!("{name} {value} is not below the vocabulary size {size}")));
            }
            Ok(T::from_u32(value))
        };
        Ok(Self {
            cls_id: id("cls_id", rules.cls_id)?,
            sep_id: id("sep_id", rules.sep_id)?,
            open: Vec::new(),
            totals: Totals { token_counts: vec![0; rules.vocab_size], ..Totals::default() },
            rules,
        })
    }

    /// What became of everything pushed so far; the row in progress is not in it.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The rows that the lines `ids[offsets[i]..offsets[i + 1]]` complete.
    ///
    /// `document_starts[i]` says whether line `i` is the first of its document; `None`: every line is. Nothing is taken
    /// in if there is an id that is not below the vocabulary size.
    pub fn push(&mut self, ids: &[T], offsets: &[i32], document_starts: Option<&[bool]>) -> Result<CutRows<T>> {
        let count = offsets.len().saturating_sub(1);
        if let Some(starts) = document_starts
            && starts.len() != count
        {
            return Err(Error::invalid(format!("{} document starts for {count} lines", starts.len())));
        }
        if let Some(bad) = ids.iter().find(|&&id| id.into() as usize >= self.rules.vocab_size) {
            return Err(Error::invalid(format!(
                "token id {} is not below the vocabulary size {}: the text was tokenised with another vocabulary",
                (*bad).into(),
                self.rules.vocab_size
            )));
        }
        let mut rows =
            CutRows { ids: Vec::with_capacity(ids.len() + 2 * count), offsets: Vec::with_capacity(count + 1) };
        rows.offsets.push(0);
        self.totals.lines += count as u64;
        for index in 0..count {
            let line = &ids[offsets[index] as usize..offsets[index + 1] as usize];
            match self.rules.mode {
                Mode::Lines => self.cut(line, &mut rows)?,
                Mode::Packed => self.join(line, document_starts.is_none_or(|starts| starts[index]), &mut rows)?,
            }
        }
        Ok(rows)
    }

    /// The row in progress, if there is one.
    pub fn finish(&mut self) -> Result<CutRows<T>> {
        let mut rows = CutRows { ids: Vec::new(), offsets: vec![0] };
        self.close(&mut rows)?;
        Ok(rows)
    }

    /// The original's rule: cut `[CLS] line [SEP]` every `max_length - 2` tokens and complete the pieces.
    fn cut(&mut self, line: &[T], rows: &mut CutRows<T>) -> Result<()> {
        if line.len() + 2 <= self.rules.max_length {
            return self.emit(line, rows);
        }
        let piece = self.rules.max_length - 2;
        // The first piece holds [CLS] already, so it has one token of the line fewer; a last piece that is [SEP] alone
        // becomes an empty row.
        let (first, rest) = line.split_at(piece - 1);
        self.emit(first, rows)?;
        for middle in rest.chunks(piece) {
            self.emit(middle, rows)?;
        }
        if rest.len().is_multiple_of(piece) {
            self.emit(&[], rows)?;
        }
        Ok(())
    }

    /// Appends the line to the row in progress, after closing that where the line does not fit or begins a document.
    fn join(&mut self, line: &[T], starts_document: bool, rows: &mut CutRows<T>) -> Result<()> {
        let room = self.rules.max_length - 2;
        if starts_document || self.open.len() + line.len() > room {
            self.close(rows)?;
        }
        let mut chunks = line.chunks(room).peekable();
        while let Some(chunk) = chunks.next() {
            self.open.extend_from_slice(chunk);
            if chunks.peek().is_some() {
                self.close(rows)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, rows: &mut CutRows<T>) -> Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        let open = std::mem::take(&mut self.open);
        let result = self.emit(&open, rows);
        self.open = open;
        self.open.clear();
        result
    }

    /// Writes `[CLS] line [SEP]` and counts it, or drops it.
    fn emit(&mut self, line: &[T], rows: &mut CutRows<T>) -> Result<()> {
        let length = line.len() + 2;
        if length < self.rules.min_length {
            self.totals.dropped_short += 1;
            return Ok(());
        }
        if let Some(unk_id) = self.rules.unk_id {
            let unknown = line.iter().filter(|&&id| id.into() == unk_id).count();
            if unknown as f64 / length as f64 >= self.rules.max_unknown {
                self.totals.dropped_unknown += 1;
                return Ok(());
            }
        }
        rows.ids.push(self.cls_id);
        rows.ids.extend_from_slice(line);
        rows.ids.push(self.sep_id);
        let end = i32::try_from(rows.ids.len()).map_err(|_| {
            Error::invalid("more than 2^31 tokens in one block of text; pass the text in smaller blocks")
        })?;
        rows.offsets.push(end);
        for &id in &rows.ids[end as usize - length..] {
            self.totals.token_counts[id.into() as usize] += 1;
        }
        self.totals.rows += 1;
        self.totals.tokens += length as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLS: u32 = 1;
    const SEP: u32 = 2;
    const UNK: u32 = 3;

    fn rules(mode: Mode, max_length: usize) -> Rules {
        Rules {
            mode,
            max_length,
            min_length: 0,
            max_unknown: 2.0,
            cls_id: CLS,
            sep_id: SEP,
            unk_id: Some(UNK),
            vocab_size: 100,
        }
    }

    fn lists(rows: &CutRows<u16>) -> Vec<Vec<u16>> {
        rows.offsets.windows(2).map(|pair| rows.ids[pair[0] as usize..pair[1] as usize].to_vec()).collect()
    }

    fn offsets(lines: &[Vec<u16>]) -> Vec<i32> {
        let mut offsets = vec![0];
        for line in lines {
            offsets.push(offsets.last().unwrap() + line.len() as i32);
        }
        offsets
    }

    fn push(cutter: &mut RowCutter<u16>, lines: &[Vec<u16>], starts: Option<&[bool]>) -> Vec<Vec<u16>> {
        lists(&cutter.push(&lines.concat(), &offsets(lines), starts).unwrap())
    }

    /// The rule as the original code spells it: pieces of the whole sequence, completed where they lack an end.
    fn cut_as_the_original(line: &[u16], max_length: usize) -> Vec<Vec<u16>> {
        let sequence = [&[CLS as u16], line, &[SEP as u16]].concat();
        if sequence.len() <= max_length {
            return vec![sequence];
        }
        sequence
            .chunks(max_length - 2)
            .map(|piece| {
                let mut piece = piece.to_vec();
                if piece[0] != CLS as u16 {
                    piece.insert(0, CLS as u16);
                }
                if *piece.last().unwrap() != SEP as u16 {
                    piece.push(SEP as u16);
                }
                piece
            })
            .collect()
    }

    proptest! {
        #[test]
        fn lines_are_cut_as_the_original_cuts_them(
            lines in prop::collection::vec(prop::collection::vec(4u16..100, 0..40), 0..8),
            max_length in 3usize..20,
        ) {
            let mut cutter = RowCutter::<u16>::new(rules(Mode::Lines, max_length)).unwrap();
            let expected: Vec<Vec<u16>> = lines.iter().flat_map(|line| cut_as_the_original(line, max_length)).collect();
            prop_assert_eq!(push(&mut cutter, &lines, None), expected);
        }

        /// Joined rows hold every token of a document in its order, never of two documents, and are as full as whole
        /// lines allow; where blocks end does not matter.
        #[test]
        fn packed_rows_keep_documents_and_order(
            lines in prop::collection::vec((prop::collection::vec(4u16..100, 0..20), any::<bool>()), 0..20),
            max_length in 3usize..20,
            cut in 0usize..20,
        ) {
            let (texts, starts): (Vec<Vec<u16>>, Vec<bool>) = lines.into_iter().unzip();
            let mut whole = RowCutter::<u16>::new(rules(Mode::Packed, max_length)).unwrap();
            let mut rows = push(&mut whole, &texts, Some(&starts));
            rows.extend(lists(&whole.finish().unwrap()));

            let mut expected: Vec<Vec<u16>> = Vec::new();
            for (index, text) in texts.iter().enumerate() {
                if index == 0 || starts[index] {
                    expected.push(Vec::new());
                }
                expected.last_mut().unwrap().extend(text);
            }
            expected.retain(|document| !document.is_empty());
            let mut documents = expected.iter();
            let mut rest: &[u16] = &[];
            for row in &rows {
                prop_assert!(row.len() <= max_length && row.len() > 2);
                prop_assert_eq!((u32::from(row[0]), u32::from(*row.last().unwrap())), (CLS, SEP));
                let inner = &row[1..row.len() - 1];
                if rest.is_empty() {
                    rest = documents.next().unwrap();
                }
                prop_assert!(rest.starts_with(inner));
                rest = &rest[inner.len()..];
            }
            prop_assert!(rest.is_empty() && documents.next().is_none());

            let cut = cut.min(texts.len());
            let mut parts = RowCutter::<u16>::new(rules(Mode::Packed, max_length)).unwrap();
            let mut in_parts = push(&mut parts, &texts[..cut], Some(&starts[..cut]));
            in_parts.extend(push(&mut parts, &texts[cut..], Some(&starts[cut..])));
            in_parts.extend(lists(&parts.finish().unwrap()));
            prop_assert_eq!(in_parts, rows);
            prop_assert_eq!(parts.totals(), whole.totals());
        }

        #[test]
        fn totals_add_up(
            lines in prop::collection::vec(prop::collection::vec(3u16..6, 0..30), 0..10),
            min_length in 0usize..10,
        ) {
            let kept = Rules { min_length, max_unknown: 0.5, ..rules(Mode::Lines, 10) };
            let mut cutter = RowCutter::<u16>::new(kept).unwrap();
            let all: Vec<Vec<u16>> = lines.iter().flat_map(|line| cut_as_the_original(line, 10)).collect();
            let short = all.iter().filter(|row| row.len() < min_length).count();
            let unknown = |row: &Vec<u16>| 2 * row.iter().filter(|&&id| u32::from(id) == UNK).count() >= row.len();
            let long: Vec<Vec<u16>> = all.into_iter().filter(|row| row.len() >= min_length).collect();
            let expected: Vec<Vec<u16>> = long.iter().filter(|row| !unknown(row)).cloned().collect();
            prop_assert_eq!(push(&mut cutter, &lines, None), expected.clone());

            let totals = cutter.totals();
            prop_assert_eq!(totals.dropped_short, short as u64);
            prop_assert_eq!(totals.dropped_unknown, (long.len() - expected.len()) as u64);
            prop_assert_eq!((totals.lines, totals.rows), (lines.len() as u64, expected.len() as u64));
            for id in 0..100u16 {
                let count = expected.concat().iter().filter(|&&other| other == id).count();
                prop_assert_eq!(totals.token_counts[id as usize], count as i64);
            }
            prop_assert_eq!(totals.tokens, expected.concat().len() as u64);
        }
    }

    #[test]
    fn joined_lines_fill_a_row_and_stay_whole() {
        let mut cutter = RowCutter::<u16>::new(rules(Mode::Packed, 6)).unwrap();
        let lines = vec![vec![10, 11], vec![12, 13], vec![14], vec![15], vec![20, 21, 22, 23, 24]];
        let rows = push(&mut cutter, &lines, Some(&[true, false, false, true, false]));
        assert_eq!(rows, [vec![1, 10, 11, 12, 13, 2], vec![1, 14, 2], vec![1, 15, 2], vec![1, 20, 21, 22, 23, 2]]);
        assert_eq!(lists(&cutter.finish().unwrap()), [vec![1, 24, 2]]);
        assert_eq!(lists(&cutter.finish().unwrap()), Vec::<Vec<u16>>::new());
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let refused = |rules: Rules| RowCutter::<u16>::new(rules).unwrap_err().to_string();
        assert!(refused(rules(Mode::Lines, 2)).contains("max_length 2"));
        assert!(refused(Rules { min_length: 11, ..rules(Mode::Lines, 10) }).contains("min_length 11"));
        assert!(refused(Rules { max_unknown: 0.0, ..rules(Mode::Lines, 10) }).contains("max_unknown 0"));
        assert!(refused(Rules { sep_id: 100, ..rules(Mode::Lines, 10) }).contains("sep_id 100"));
        let mut cutter = RowCutter::<u16>::new(rules(Mode::Lines, 10)).unwrap();
        let message = cutter.push(&[5, 100], &[0, 2], None).unwrap_err().to_string();
        assert!(message.contains("token id 100"), "{message}");
        assert!(cutter.push(&[5], &[0, 1], Some(&[])).is_err());
        assert_eq!(cutter.totals().rows, 0);
    }
}

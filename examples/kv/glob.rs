//! Glob patterns of KEYS, SCAN and CONFIG GET, with the dialect of redis.

/// Whether all of `text` matches `pattern`.
///
/// `*` and `?` match any run and any byte, `[a-z]` and `[^a-z]` classes, `\` takes the next byte literally. The cost is
/// bounded by the product of the lengths: on a mismatch only the last `*` is tried again.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut at_pattern = 0;
    let mut at_text = 0;
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at_pattern) == Some(&b'*') {
            at_pattern += 1;
            retry = Some((at_pattern, at_text));
            continue;
        }
        let step = match (at_pattern < pattern.len(), text.get(at_text)) {
            (false, None) => return true,
            (true, Some(&byte)) => match_one(&pattern[at_pattern..], byte),
            _ => None,
        };
        if let Some(width) = step {
            at_pattern += width;
            at_text += 1;
            continue;
        }
        match retry {
            Some((pattern_start, text_start)) if text_start < text.len() => {
                retry = Some((pattern_start, text_start + 1));
                at_pattern = pattern_start;
                at_text = text_start + 1;
            }
            _ => return false,
        }
    }
}

/// Matches the one element at the start of `pattern`, which is not `*`, and says how long it is.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => match_class(class, byte).map(|width| width + 1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Matches a class whose `[` has been taken; one that is not closed ends with the pattern.
fn match_class(class: &[u8], byte: u8) -> Option<usize> {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match class[at.min(class.len())..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                found |= literal == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeello", true),
            ("*a*b", "xaxxbxb", true),
            ("*a*b", "xaxxbxbc", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a", "ha", true),
            ("h\\*o", "h*o", true),
            ("h\\*o", "hxo", false),
            ("[\\]]", "]", true),
            ("[]", "a", false),
            ("a\\", "a\\", true),
            ("***", "abc", true),
        ] {
            let observed = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(observed, expected, "{pattern:?} against {text:?}");
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!matches(pattern.as_bytes(), &[b'a'; 4000]));
    }
}

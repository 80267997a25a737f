//! One declaration per setting: the `table!` macro yields the field, its key, its default, its text, its check, its
//! reader and its printer (CFG-4). There is no second list that could disagree.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::value::Value;

/// A setting as the manual and the sample must show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The table, without brackets; empty for the top level.
    pub table: &'static str,
    /// Whether the table may be given several times: `[[listen]]`.
    pub repeated: bool,
    /// The key.
    pub key: &'static str,
    /// The default as TOML; `None` when there is none, so that the key is either required or means nothing unless set.
    pub default: Option<&'static str>,
    /// Whether the table needs the key.
    pub required: bool,
    /// What it does, from its doc comment.
    pub doc: &'static str,
}

/// A fault at a place of the file.
#[derive(Debug)]
pub struct Fault {
    /// Where, in octets.
    pub span: Range<usize>,
    /// What was found and what is allowed.
    pub reason: String,
}

/// What `table!` implements.
pub trait Table: Sized {
    /// Name in the file; empty for the top level.
    const NAME: &'static str;
    /// Given as `[[name]]`.
    const REPEATED: bool;
    /// Keys that are decided but that this version cannot obey yet. They are refused, never ignored.
    const LATER: &'static [&'static str];

    /// All defaults.
    fn defaults() -> Self;
    /// Reads one key; `None` if there is no such key.
    fn set(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Result<(), Fault>>;
    /// All keys with their values as TOML, in the order of declaration.
    fn show(&self) -> Vec<(Setting, Option<String>)>;
}

/// Reads a default; they are written in TOML so that reader, manual and sample mean the same by them.
pub(super) fn parse_default<T: Value>(text: &str) -> T {
    let value = DeValue::parse(text).ok();
    let value = value.and_then(|value| T::read(&value).ok());
    value.expect("the defaults are valid TOML of their type, as a test shows")
}

/// Declares a table. A key is
///
/// ```text
/// /// Text.
/// field ("key" if another word): Type (as Codec, if the file's form is not the type's) = DEFAULT, check;
/// ```
///
/// where DEFAULT is a TOML literal, `(required "placeholder")`, `(unset)` or `(computed "as documented", expression)`,
/// and the optional check is a function from `&Type` to `Result<(), String>`. `plus` adds fields that are no keys, `also` names a
/// function that knows further ones.
macro_rules! table {
    (
        $(#[doc = $about:literal])*
        pub struct $Name:ident in $table:literal $(repeated $repeated:literal)? {
            $(
                $(#[doc = $doc:literal])*
                $field:ident $(($key:literal))? : $ty:ty $(as $codec:ty)? = $default:tt $(, $check:expr)? ;
            )*
        }
        $(plus { $( $(#[doc = $xdoc:literal])* $xfield:ident : $xty:ty = $xdefault:expr ; )* })?
        $(later [ $($later:literal),* $(,)? ])?
        $(also $also:path)?
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Name {
            $( $(#[doc = $doc])* pub $field: $ty, )*
            $( $( $(#[doc = $xdoc])* pub $xfield: $xty, )* )?
        }

        impl $crate::config::table::Table for $Name {
            const NAME: &'static str = $table;
            const REPEATED: bool = false $(|| $repeated)?;
            const LATER: &'static [&'static str] = &[$($($later),*)?];

            fn defaults() -> Self {
                $Name {
                    $( $field: $crate::config::table::table!(@default ($ty) ($($codec)?) $default), )*
                    $( $( $xfield: $xdefault, )* )?
                }
            }

            fn set(
                &mut self,
                key: &str,
                value: &toml::Spanned<toml::de::DeValue<'_>>,
            ) -> Option<Result<(), $crate::config::table::Fault>> {
                $(
                    if key == $crate::config::table::table!(@key $field $($key)?) {
                        let read = $crate::config::table::table!(@read ($ty) ($($codec)?) value);
                        return Some(match read {
                            Ok(new) => {
                                $(
                                    let check = $check;
                                    if let Err(reason) = check(&new) {
                                        let span = value.span();
                                        return Some(Err($crate::config::table::Fault { span, reason }));
                                    }
                                )?
                                self.$field = new;
                                Ok(())
                            }
                            Err(fault) => Err(fault),
                        });
                    }
                )*
                $crate::config::table::table!(@also self, key, value $(, $also)?)
            }

            fn show(&self) -> Vec<($crate::config::table::Setting, Option<String>)> {
                vec![$(
                    (
                        $crate::config::table::Setting {
                            table: $table,
                            repeated: <$Name as $crate::config::table::Table>::REPEATED,
                            key: $crate::config::table::table!(@key $field $($key)?),
                            default: $crate::config::table::table!(@text $default),
                            required: $crate::config::table::table!(@required $default),
                            doc: concat!($($doc, "\n"),*),
                        },
                        $crate::config::table::table!(@show ($ty) ($($codec)?) self.$field),
                    ),
                )*]
            }
        }
    };

    (@also $table:expr, $key:expr, $value:expr) => {{
        let _ = $value;
        None
    }};
    (@also $table:expr, $key:expr, $value:expr, $also:path) => { $also($table, $key, $value) };

    (@key $field:ident $key:literal) => { $key };
    (@key $field:ident) => { stringify!($field) };

    (@default ($ty:ty) () $text:literal) => { $crate::config::table::parse_default::<$ty>($text) };
    (@default ($ty:ty) ($codec:ty) $text:literal) => {
        <$ty>::from($crate::config::table::parse_default::<$codec>($text))
    };
    (@default ($ty:ty) ($($codec:ty)?) (required $text:literal)) => {
        $crate::config::table::table!(@default ($ty) ($($codec)?) $text)
    };
    (@default ($ty:ty) ($($codec:ty)?) (unset)) => { None };
    (@default ($ty:ty) ($($codec:ty)?) (computed $text:literal, $value:expr)) => { $value };

    (@text $text:literal) => { Some($text) };
    (@text (required $text:literal)) => { None };
    (@text (unset)) => { None };
    (@text (computed $text:literal, $value:expr)) => { Some($text) };

    (@required (required $text:literal)) => { true };
    (@required $other:tt) => { false };

    (@read ($ty:ty) () $value:ident) => { <$ty as $crate::config::value::Value>::read($value) };
    (@read ($ty:ty) ($codec:ty) $value:ident) => {
        <$codec as $crate::config::value::Value>::read($value).map(<$ty>::from)
    };

    (@show ($ty:ty) () $value:expr) => { <$ty as $crate::config::value::Value>::show(&$value) };
    (@show ($ty:ty) ($codec:ty) $value:expr) => {
        <$codec as $crate::config::value::Value>::show(&<$codec>::from($value.clone()))
    };
}
pub(crate) use table;

/// Declares an enum whose variants are words of the file.
macro_rules! words {
    (
        $(#[doc = $about:literal])*
        pub enum $Name:ident {
            $( $(#[doc = $doc:literal])* $variant:ident = $word:literal, )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $Name {
            $( $(#[doc = $doc])* $variant, )*
        }
        $crate::config::table::words!(impl $Name { $($variant = $word,)* });
    };
    (impl $Name:ident { $( $variant:ident = $word:literal, )* }) => {
        impl $crate::config::value::Value for $Name {
            fn read(
                value: &toml::Spanned<toml::de::DeValue<'_>>,
            ) -> Result<Self, $crate::config::table::Fault> {
                const WORDS: &str = concat!($("\"", $word, "\" "),*);
                let word = $crate::config::value::text(value, "one of the words below")
                    .map_err(|mut fault| {
                        fault.reason = format!("{}: {}", fault.reason, WORDS.trim_end());
                        fault
                    })?;
                match word {
                    $( $word => Ok($Name::$variant), )*
                    other => Err($crate::config::value::fault(
                        value,
                        format!("{other:?} is not one of {}", WORDS.trim_end().replace(' ', ", ")),
                    )),
                }
            }

            fn show(&self) -> Option<String> {
                Some($crate::config::value::quoted(match self {
                    $( $Name::$variant => $word, )*
                }))
            }
        }
    };
}
pub(crate) use words;

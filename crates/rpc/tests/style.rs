//! The contracts keep the style of Buf's standard rules: <https://buf.build/docs/lint/rules/>.

use std::{collections::HashSet, fs, path::Path};

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contracts.binpb"));

fn contracts() -> Vec<FileDescriptorProto> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors").file;
    let ours: Vec<_> = files.into_iter().filter(|file| file.name().starts_with("gozon/")).collect();
    assert_eq!(ours.len(), 2);
    ours
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase()) && !name.contains('_')
}

fn is_lower_snake(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn upper_snake(name: &str) -> String {
    let mut upper = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !upper.is_empty() {
            upper.push('_');
        }
        upper.push(c.to_ascii_uppercase());
    }
    upper
}

#[test]
fn packages_are_versioned_and_match_their_folder() {
    for file in contracts() {
        let package = file.package();
        let folder = Path::new(file.name()).parent().unwrap().to_str().unwrap();
        assert_eq!(folder.replace('/', "."), package);
        assert_eq!(package.rsplit('.').next(), Some("v1"), "{package}");
        assert_eq!(file.syntax(), "proto3");
        let stem = Path::new(file.name()).file_stem().unwrap().to_str().unwrap();
        assert!(is_lower_snake(stem), "{stem}");
    }
}

#[test]
fn every_contract_is_compiled() {
    fn count(folder: &Path) -> usize {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/proto");
    assert_eq!(count(Path::new(folder)), contracts().len());
}

#[test]
fn each_method_has_a_request_and_a_response_of_its_own() {
    let mut used = HashSet::new();
    for file in contracts() {
        for service in &file.service {
            assert!(service.name().ends_with("Service") && is_pascal(service.name()));
            for method in &service.method {
                assert!(is_pascal(method.name()), "{}", method.name());
                for (kind, kind_name) in [
                    (method.input_type(), format!("{}Request", method.name())),
                    (method.output_type(), format!("{}Response", method.name())),
                ] {
                    assert_eq!(kind, format!(".{}.{kind_name}", file.package()));
                    assert!(used.insert(kind.to_owned()), "{kind} is used twice");
                }
            }
        }
    }
    assert_eq!(used.len(), 16);
}

#[test]
fn messages_and_fields_are_named_as_usual() {
    fn check(message: &DescriptorProto) {
        assert!(is_pascal(message.name()), "{}", message.name());
        for field in &message.field {
            assert!(is_lower_snake(field.name()), "{}", field.name());
        }
        for oneof in &message.oneof_decl {
            assert!(is_lower_snake(oneof.name()), "{}", oneof.name());
        }
        message.nested_type.iter().for_each(check);
    }
    contracts().iter().flat_map(|file| &file.message_type).for_each(check);
}

#[test]
fn enum_values_have_a_prefix_and_zero_is_unspecified() {
    fn check(kind: &EnumDescriptorProto) {
        assert!(is_pascal(kind.name()), "{}", kind.name());
        let prefix = upper_snake(kind.name());
        assert_eq!(kind.value[0].name(), format!("{prefix}_UNSPECIFIED"));
        assert_eq!(kind.value[0].number(), 0);
        let mut numbers = HashSet::new();
        for value in &kind.value {
            assert!(value.name().starts_with(&format!("{prefix}_")), "{}", value.name());
            assert!(numbers.insert(value.number()), "{} is an alias", value.name());
        }
    }
    contracts().iter().flat_map(|file| &file.enum_type).for_each(check);
}

/// Where descriptors have what a comment may stand before: the numbers of their own fields.
#[test]
fn everything_has_a_comment() {
    for file in contracts() {
        let info = file.source_code_info.as_ref().unwrap();
        let commented: HashSet<&[i32]> = info
            .location
            .iter()
            .filter(|location| location.leading_comments().trim().ends_with(['.', ':']))
            .map(|location| location.path.as_slice())
            .collect();
        let mut wanted: Vec<(String, Vec<i32>)> = Vec::new();
        for (m, message) in (0..).zip(&file.message_type) {
            wanted.push((message.name().to_owned(), vec![4, m]));
            for (f, field) in (0..).zip(&message.field) {
                wanted.push((format!("{}.{}", message.name(), field.name()), vec![4, m, 2, f]));
            }
        }
        for (e, kind) in (0..).zip(&file.enum_type) {
            wanted.push((kind.name().to_owned(), vec![5, e]));
            for (v, value) in (0..).zip(&kind.value) {
                wanted.push((value.name().to_owned(), vec![5, e, 2, v]));
            }
        }
        for (s, service) in (0..).zip(&file.service) {
            wanted.push((service.name().to_owned(), vec![6, s]));
            for (m, method) in (0..).zip(&service.method) {
                wanted.push((method.name().to_owned(), vec![6, s, 2, m]));
            }
        }
        for (name, path) in wanted {
            assert!(commented.contains(path.as_slice()), "{name} has no comment");
        }
    }
}

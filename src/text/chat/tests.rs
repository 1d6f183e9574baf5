use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::python::{strftime, without_generation_tags};
use super::{ChatTemplate, Message};
use crate::error::Result;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chats.json");
    serde_json::from_slice(&std::fs::read(path).expect("a fixture")).expect("JSON")
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, Some("<s>"), Some("</s>")).expect("a template")
}

fn named(name: &str) -> ChatTemplate {
    template(fixture()["cases"][name]["template"].as_str().expect("a text"))
}

fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|&(role, content)| Message { role: role.into(), content: content.into() }).collect()
}

/// The texts of the assistant's turns.
fn turns(template: &ChatTemplate, messages: &[Message]) -> Result<Vec<String>> {
    let (text, turns) = template.render_with_turns(messages)?;
    Ok(turns.into_iter().map(|turn| text[turn].to_owned()).collect())
}

#[test]
fn texts_are_those_of_transformers() {
    let fixture = fixture();
    let conversations: Vec<Vec<Message>> = serde_json::from_value(fixture["conversations"].clone()).expect("conversations");
    for (name, case) in fixture["cases"].as_object().expect("cases") {
        let template = template(case["template"].as_str().expect("a text"));
        let ways = conversations.iter().flat_map(|messages| [(messages, false), (messages, true)]);
        for ((messages, prompt), expected) in ways.zip(case["texts"].as_array().expect("texts")) {
            let text = template.render(messages, prompt);
            match expected.as_str() {
                Some(expected) => assert_eq!(text.expect("a text"), expected, "{name}"),
                None => assert!(text.is_err(), "{name}"),
            }
        }
    }
}

#[test]
fn turns_are_found() {
    let messages = chat(&[("user", "q"), ("assistant", "one"), ("user", "<|stop|>"), ("assistant", "two")]);
    assert_eq!(turns(&named("turns"), &messages).expect("turns"), ["one<|stop|>\n", "two<|stop|>\n"]);
    assert_eq!(turns(&named("brackets"), &messages).expect("turns"), [" one </s>", " two </s>"]);
    assert_eq!(turns(&named("tags"), &messages).expect("turns"), ["one</s>\n", "two</s>\n"]);
    let two = chat(&[("user", "q"), ("assistant", "one"), ("assistant", "two")]);
    assert_eq!(turns(&named("turns"), &two).expect("turns"), ["one<|stop|>\n", "two<|stop|>\n"]);
    assert!(turns(&named("turns"), &chat(&[("user", "assistant")])).expect("no turns").is_empty());
}

#[test]
fn turns_that_depend_on_what_follows_are_found() {
    // The first turn loses its reasoning when the second follows.
    let messages = chat(&[("user", "q"), ("assistant", "<t>\nhm\n</t>\n\none"), ("user", "q"), ("assistant", "two")]);
    assert_eq!(turns(&named("thoughts"), &messages).expect("turns"), ["one</>\n", "<t>\n\n</t>\n\ntwo</>\n"]);
    // A generation prompt that differs from the start of a turn, and an end that only the last turn has.
    let odd = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }};{% endfor %}{% if add_generation_prompt %}[assistant]<t>{% else %}.{% endif %}";
    let messages = chat(&[("user", "q"), ("assistant", " one "), ("user", "one"), ("assistant", "<two")]);
    assert_eq!(turns(&template(odd), &messages).expect("turns"), ["one;", "<two;."]);
    // The content is changed beyond recognition, or appears twice.
    for source in [
        "{% for m in messages %}{{ m.content | length }} {% endfor %}.",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}{{ messages | length }}",
    ] {
        let error = turns(&template(source), &messages).expect_err("no turns to be found");
        assert!(error.exit_code() == 2 && error.to_string().contains("message 2"), "{error}");
    }
}

#[test]
fn bad_templates_are_refused() {
    let bad = |source: &str| ChatTemplate::new(source, None, None).err().expect("a bad template").to_string();
    for (source, word) in [("{% for %}", "line 1"), ("\n{{ x", "line 2"), ("{{ x | no_such_filter }}", "no_such_filter")] {
        let text = match ChatTemplate::new(source, None, None) {
            Err(e) => e.to_string(),
            Ok(template) => template.render(&[], false).expect_err("a bad template").to_string(),
        };
        assert!(text.contains(word) && text.contains("chat template"), "{text}");
    }
    assert!(bad("{% endgeneration %}").contains("not valid"));
    for (source, word) in [
        ("{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}", "too long"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ raise_exception('No system role.') }}", "No system role. in line 1"),
        ("{% include '/etc/passwd' %}", "/etc/passwd"),
        ("{{ no_such_function() }}", "no_such_function"),
        ("{{ messages[0].no.such }}", "undefined"),
    ] {
        let error = template(source).render(&[], false).expect_err("a bad template");
        assert!(error.exit_code() == 2 && error.to_string().contains(word), "{error}");
    }
}

#[test]
fn times_are_written_as_c_does() {
    let at = |seconds| strftime("%Y-%m-%d %H:%M:%S %j %a %A %d %b %B %y %I%p %% %Q", UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(0), "1970-01-01 00:00:00 001 Thu Thursday 01 Jan January 70 12AM % %Q");
    assert_eq!(at(951_868_799), "2000-02-29 23:59:59 060 Tue Tuesday 29 Feb February 00 11PM % %Q");
    assert_eq!(at(1_767_225_599), "2025-12-31 23:59:59 365 Wed Wednesday 31 Dec December 25 11PM % %Q");
    assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 060 Mon Monday 01 Mar March 00 12AM % %Q");
}

#[test]
fn generation_tags_become_conditions() {
    assert_eq!(without_generation_tags("{%- generation -%}x{%endgeneration%}"), "{%- if true -%}x{%endif%}");
    assert_eq!(without_generation_tags("generation {% if generation %} {%"), "generation {% if generation %} {%");
}

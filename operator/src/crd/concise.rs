//! Definitions that say everything once. Each is one object in etcd and one file, and both are bounded; what is said here a
//! second time is in the reference of [`super::reference`] all the same.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// Parts whose fields are those of another part of the same definition, which says what they are, or of Kubernetes' own
/// Condition.
const TOLD_ELSEWHERE: [(&str, Option<&str>); 7] = [
    ("spec.bootstrap.restore.store", Some("spec.backup.store")),
    ("spec.bootstrap.restore.encryption", Some("spec.backup.encryption")),
    ("spec.security.tls.clientsIssuerRef", Some("spec.security.tls.peersIssuerRef")),
    ("status.conditions", None),
    ("status.quorum.lossPoints", Some("spec.recovery.quorumLoss.consent")),
    ("status.restore.encryption", Some("spec.backup.encryption")),
    ("status.restore.target", Some("spec.bootstrap.restore.target")),
];

/// Fields of a reference whose names say what they are.
const NAMED: [&str; 3] = ["group", "key", "name"];

/// Takes away what is said a second time.
pub(super) fn say_once(definition: &mut CustomResourceDefinition) {
    for version in &mut definition.spec.versions {
        // Nobody is shown them but by the reference.
        for column in version.additional_printer_columns.iter_mut().flatten() {
            column.description = None;
        }
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        for (name, part) in schema.into_iter().flat_map(|schema| schema.properties.iter_mut().flatten()) {
            walk(part, name);
        }
    }
}

fn walk(schema: &mut JSONSchemaProps, path: &str) {
    // Clients wrap lines as wide as they like.
    if let Some(text) = schema.description.as_mut().filter(|text| text.contains('\n')) {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if let Some((_, elsewhere)) = TOLD_ELSEWHERE.iter().find(|(part, _)| *part == path) {
        // Some name it as it is.
        if let Some((elsewhere, text)) = elsewhere.zip(schema.description.as_mut())
            && !text.contains(elsewhere)
        {
            *text = format!("{text} See {elsewhere}.");
        }
        return fields(schema, &mut |_, field| silence(field));
    }
    if path.ends_with("Ref") {
        fields(schema, &mut |name, field| {
            if NAMED.contains(&name) {
                field.description = None;
            }
        });
    }
    if let Some(items) = items(schema) {
        // The list says what it consists of.
        items.description = None;
        walk(items, path);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        walk(values, path);
    }
    fields(schema, &mut |name, field| walk(field, &format!("{path}.{name}")));
}

/// Neither the part nor its fields say what they are.
fn silence(schema: &mut JSONSchemaProps) {
    schema.description = None;
    fields(schema, &mut |_, field| silence(field));
}

/// The fields of an object, or of those that a list consists of.
fn fields(schema: &mut JSONSchemaProps, then: &mut dyn FnMut(&str, &mut JSONSchemaProps)) {
    if let Some(items) = items(schema) {
        items.description = None;
        return fields(items, then);
    }
    for (name, field) in schema.properties.iter_mut().flatten() {
        then(name, field);
    }
}

fn items(schema: &mut JSONSchemaProps) -> Option<&mut JSONSchemaProps> {
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{definitions, described};
    use serde_json::{Value, json};

    fn field<'a>(schema: &'a Value, path: &str) -> &'a Value {
        path.split('.').fold(schema, |schema, name| {
            let of = if schema["items"].is_object() { &schema["items"] } else { schema };
            &of["properties"][name]
        })
    }

    #[test]
    fn what_is_told_elsewhere_is_a_field_that_is_told_of_there() {
        let (full, terse) = (json!(described()[0]), json!(definitions()[0]));
        let schema = |of: &Value| of["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        let (full, terse) = (schema(&full), schema(&terse));
        for (path, elsewhere) in super::TOLD_ELSEWHERE {
            assert!(field(&full, path)["description"].is_string(), "{path} is no field");
            let text = field(&terse, path)["description"].as_str().unwrap();
            let Some(elsewhere) = elsewhere else { continue };
            assert!(text.contains(elsewhere), "{path} itself says what it is, and where the rest is: {text}");
            assert!(field(&terse, elsewhere)["description"].is_string(), "{elsewhere}");
        }
        // Each field without words has them in a part of the same kind.
        for (silent, told) in [
            ("spec.bootstrap.restore.store.s3.region", "spec.backup.store.s3.region"),
            ("spec.bootstrap.restore.encryption.unencrypted", "spec.backup.encryption.unencrypted"),
            ("spec.security.tls.clientsIssuerRef.kind", "spec.security.tls.peersIssuerRef.kind"),
            ("status.quorum.lossPoints.index", "spec.recovery.quorumLoss.consent.index"),
            ("status.restore.target.time", "spec.bootstrap.restore.target.time"),
        ] {
            assert_eq!(field(&terse, silent)["description"], Value::Null, "{silent}");
            assert_eq!(field(&terse, told)["description"], field(&full, silent)["description"], "{silent}");
        }
    }

    #[test]
    fn nothing_but_words_is_taken_away() {
        fn wordless(value: &mut Value) {
            match value {
                Value::Object(map) => {
                    // A field of that name is an object, and stays.
                    if map.get("description").is_some_and(Value::is_string) {
                        map.remove("description");
                    }
                    map.values_mut().for_each(wordless);
                }
                Value::Array(list) => list.iter_mut().for_each(wordless),
                _ => {}
            }
        }
        let (mut full, mut terse) = (json!(described()), json!(definitions()));
        assert_ne!(full, terse);
        wordless(&mut full);
        wordless(&mut terse);
        assert_eq!(full, terse);
    }
}

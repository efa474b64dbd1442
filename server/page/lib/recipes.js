// The recipes, from the server's OpenAPI document: name, what it computes, and a first text.

import { get } from "./api.js";

let loading;

/** Return [{name, about, text(models)}]; the document is fetched once. */
export function recipes() {
  loading ??= get("openapi.json").then(read);
  loading.catch(() => (loading = undefined));
  return loading;
}

function read(document) {
  const schemas = document.components.schemas;
  return Object.values(schemas)
    .filter((schema) => schema.properties?.recipe?.const)
    .map((schema) => ({
      name: schema.properties.recipe.const,
      about: schema.description,
      text: (models) => JSON.stringify(example(schema, schemas, models.slice()), null, 1),
    }));
}

/** Fill in what a schema requires, and its numbers, so that these can be turned. */
function example(schema, schemas, models) {
  const made = {};
  for (const [name, field] of Object.entries(schema.properties)) {
    const isNumber = field.type === "number" || field.type === "integer";
    if (field.const) made[name] = field.const;
    else if (schema.required?.includes(name)) made[name] = value(field, schemas, models);
    else if (field.anyOf?.some(isModel)) made[name] = models.shift() ?? "base";
    else if (isNumber && field.default != null) made[name] = field.default;
  }
  return made;
}

const isModel = (field) => field.maxLength === 512;

function value(field, schemas, models) {
  if (field.type === "array") {
    const { $ref: ref } = field.items;
    const count = ref ? 1 : 2;
    return Array.from({ length: count }, () =>
      ref ? example(schemas[ref.split("/").pop()], schemas, models) : value(field.items, schemas, models),
    );
  }
  if (field.type === "number" || field.type === "integer") return field.default ?? 1;
  return isModel(field) ? (models.shift() ?? "base") : "…";
}

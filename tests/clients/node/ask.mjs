// Calls a server with one client, as its users do, and prints what came as one line of JSON:
//   node ask.mjs CLIENT CALL   with BASE_URL, API_KEY and MODEL in the environment
// RETRIES says how often a client may try again; by default none does.
// An error of a client is printed as {"error": {...}}; anything else ends the process with 1.
import { createRequire } from "node:module";
import path from "node:path";

const { BASE_URL, API_KEY, MODEL, MODULES } = process.env;
const maxRetries = Number(process.env.RETRIES ?? 0);
// The packages lie outside the source tree; import them from where they were installed.
const from = createRequire(path.join(MODULES ?? import.meta.dirname, "index.js"));

const TEXT = "Grüße aus Köln 🙂";
const PARAMETERS = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};

function receipt(headers) {
  const names = ["x-badgr-receipt-id", "x-aibadgr-receipt-url", "x-request-id"];
  return Object.fromEntries(names.map((name) => [name, headers.get(name)]));
}

function openai() {
  const { default: OpenAI } = from("openai");
  const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: API_KEY, maxRetries });
  const messages = [{ role: "user", content: TEXT }];
  const tools = [{ type: "function", function: { name: "get_forecast", parameters: PARAMETERS } }];
  return {
    async chat() {
      const { data, response } = await client.chat.completions
        .create({ model: MODEL, messages })
        .withResponse();
      return {
        text: data.choices[0].message.content,
        input: data.usage.prompt_tokens,
        output: data.usage.completion_tokens,
        headers: receipt(response.headers),
      };
    },
    async chat_stream() {
      const { data, response } = await client.chat.completions
        .create({ model: MODEL, messages, stream: true, stream_options: { include_usage: true } })
        .withResponse();
      let text = "";
      let usage = null;
      for await (const chunk of data) {
        text += chunk.choices[0]?.delta?.content ?? "";
        usage = chunk.usage ?? usage;
      }
      return {
        text,
        input: usage.prompt_tokens,
        output: usage.completion_tokens,
        headers: receipt(response.headers),
      };
    },
    async chat_tool() {
      const { data, response } = await client.chat.completions
        .create({ model: MODEL, messages: [{ role: "user", content: "Use get_forecast" }], tools })
        .withResponse();
      const [call] = data.choices[0].message.tool_calls;
      return {
        text: `${call.function.name} ${call.function.arguments}`,
        input: data.usage.prompt_tokens,
        output: data.usage.completion_tokens,
        headers: receipt(response.headers),
      };
    },
    async responses() {
      const { data, response } = await client.responses
        .create({ model: MODEL, input: TEXT })
        .withResponse();
      return {
        text: data.output_text,
        input: data.usage.input_tokens,
        output: data.usage.output_tokens,
        headers: receipt(response.headers),
      };
    },
    async responses_stream() {
      const { data, response } = await client.responses
        .create({ model: MODEL, input: TEXT, stream: true })
        .withResponse();
      let text = "";
      let last = null;
      for await (const event of data) {
        if (event.type === "response.output_text.delta") text += event.delta;
        last = event;
      }
      if (last.type !== "response.completed") throw new Error(`ended on ${last.type}`);
      return {
        text,
        input: last.response.usage.input_tokens,
        output: last.response.usage.output_tokens,
        headers: receipt(response.headers),
      };
    },
    async embeddings() {
      const { data, response } = await client.embeddings
        .create({ model: "text-embedding-3-small", input: ["one text"] })
        .withResponse();
      return {
        text: String(data.data[0].embedding.length),
        input: data.usage.prompt_tokens,
        output: 0,
        headers: receipt(response.headers),
      };
    },
    async models() {
      const names = [];
      for await (const model of client.models.list()) names.push(model.id);
      return { names };
    },
  };
}

function anthropic() {
  const { default: Anthropic } = from("@anthropic-ai/sdk");
  const client = new Anthropic({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries });
  const asked = { model: MODEL, max_tokens: 300, messages: [{ role: "user", content: TEXT }] };
  return {
    async messages() {
      const { data, response } = await client.messages.create(asked).withResponse();
      return {
        text: data.content[0].text,
        input: data.usage.input_tokens,
        output: data.usage.output_tokens,
        headers: receipt(response.headers),
      };
    },
    async messages_stream() {
      const stream = client.messages.stream(asked);
      let text = "";
      stream.on("text", (piece) => (text += piece));
      const { response } = await stream.withResponse();
      const final = await stream.finalMessage();
      if (final.content[0].text !== text) throw new Error("the pieces are not the whole");
      return {
        text,
        input: final.usage.input_tokens,
        output: final.usage.output_tokens,
        headers: receipt(response.headers),
      };
    },
    async messages_tool() {
      const { data, response } = await client.messages
        .create({
          ...asked,
          messages: [{ role: "user", content: "Use get_forecast" }],
          tools: [{ name: "get_forecast", input_schema: PARAMETERS }],
        })
        .withResponse();
      const [call] = data.content;
      return {
        text: `${call.name} ${JSON.stringify(call.input)}`,
        input: data.usage.input_tokens,
        output: data.usage.output_tokens,
        headers: receipt(response.headers),
      };
    },
    async models() {
      const names = [];
      for await (const model of client.models.list({ limit: 5 })) names.push(model.id);
      return { names };
    },
  };
}

function builtin() {
  async function ask(stream) {
    const response = await fetch(`${BASE_URL}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${API_KEY}`, "content-type": "application/json" },
      body: JSON.stringify({
        model: MODEL,
        messages: [{ role: "user", content: TEXT }],
        ...(stream && { stream: true, stream_options: { include_usage: true } }),
      }),
    });
    if (!response.ok) {
      const problem = new Error("refused");
      Object.assign(problem, { status: response.status, error: (await response.json()).error });
      throw problem;
    }
    return response;
  }
  return {
    async chat() {
      const response = await ask(false);
      const data = await response.json();
      return {
        text: data.choices[0].message.content,
        input: data.usage.prompt_tokens,
        output: data.usage.completion_tokens,
        headers: receipt(response.headers),
      };
    },
    async chat_stream() {
      const response = await ask(true);
      let raw = "";
      const decoder = new TextDecoder();
      for await (const piece of response.body) raw += decoder.decode(piece, { stream: true });
      const lines = raw.split("\n\n").filter(Boolean);
      if (lines.pop() !== "data: [DONE]") throw new Error("no end");
      const chunks = lines.map((line) => JSON.parse(line.replace(/^data: /, "")));
      const { usage } = chunks.at(-1);
      return {
        text: chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join(""),
        input: usage.prompt_tokens,
        output: usage.completion_tokens,
        headers: receipt(response.headers),
      };
    },
  };
}

const [name, call] = process.argv.slice(2);
const clients = { openai, anthropic, fetch: builtin };
let said;
try {
  said = await clients[name]()[call]();
} catch (problem) {
  if (problem.status === undefined) throw problem;
  const { type, code, message } = problem.error?.error ?? problem.error ?? {};
  said = { error: { name: problem.constructor.name, status: problem.status, type, code, message } };
}
process.stdout.write(JSON.stringify(said) + "\n");

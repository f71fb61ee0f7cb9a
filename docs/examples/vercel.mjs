// Vercel's AI SDK asks a pool: `npm install ai @ai-sdk/openai-compatible`. OPENAI_BASE_URL is the gateway's, and ends with /v1.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";

const pool = createOpenAICompatible({
  name: "tokenlane",
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
});
const { textStream } = streamText({ model: pool(process.argv[2]), prompt: "Name three primes." });
for await (const text of textStream) process.stdout.write(text);
console.log();

# One image for every role:
#   docker run -v tidemark:/var/lib/tidemark -p 9443:9443 -p 9444:9444 tidemark up
# Metrics listen on loopback unless told otherwise: add --metrics 0.0.0.0 to scrape a container.
FROM node:24-bookworm-slim AS build
# zstd-napi compiles at installation; without a compiler the product falls back to node:zlib.
RUN apt-get update && apt-get install -y --no-install-recommends g++ make python3 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY tsconfig.json ./
COPY src ./src
RUN npm run build && npm prune --omit=dev --no-audit --no-fund

FROM node:24-bookworm-slim
ENV NODE_ENV=production TIDEMARK_DATA=/var/lib/tidemark
WORKDIR /app
COPY --from=build /app/package.json ./
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY LICENSE ./
RUN install -d -o node -g node -m 0700 /var/lib/tidemark
USER node
# agents, process servers, control API, metrics and health
EXPOSE 9443 9444 8443 9464
VOLUME /var/lib/tidemark
ENTRYPOINT ["node", "/app/dist/src/main.js"]
CMD ["--help"]

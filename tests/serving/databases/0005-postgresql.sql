SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.deliveries (
    id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    url character varying(2000) NOT NULL,
    body text NOT NULL,
    attempts integer NOT NULL,
    created_at double precision NOT NULL,
    next_at double precision,
    delivered_at double precision,
    error character varying(500)
);
CREATE TABLE public.flows (
    tenant character varying(64) NOT NULL,
    weight double precision NOT NULL,
    served double precision NOT NULL
);
CREATE TABLE public.jobs (
    number integer NOT NULL,
    id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    state character varying(16) NOT NULL,
    foundation character varying(64),
    model character varying(256) NOT NULL,
    request json NOT NULL,
    weight double precision NOT NULL,
    progress integer NOT NULL,
    attempts integer NOT NULL,
    owner character varying(64),
    lease_until double precision,
    created_at double precision NOT NULL,
    started_at double precision,
    finished_at double precision,
    expires_at double precision,
    timings json NOT NULL,
    neighbours integer,
    error_code character varying(64),
    error_message character varying(2000),
    result_key character varying(256),
    result_sha256 character varying(64),
    result_size integer,
    idempotency_key character varying(255),
    body_sha256 character varying(64),
    webhook_url character varying(2000)
);
CREATE SEQUENCE public.jobs_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.jobs_number_seq OWNED BY public.jobs.number;
CREATE TABLE public.pins (
    foundation character varying(64) NOT NULL,
    path character varying(16) NOT NULL,
    sha256 character varying(64) NOT NULL,
    concept character varying(64) NOT NULL,
    version integer NOT NULL,
    pinned boolean NOT NULL,
    revision integer NOT NULL
);
CREATE TABLE public.rates (
    tenant character varying(64) NOT NULL,
    arrival double precision NOT NULL
);
CREATE TABLE public.schema_version (
    version integer NOT NULL
);
CREATE SEQUENCE public.schema_version_version_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.schema_version_version_seq OWNED BY public.schema_version.version;
CREATE TABLE public.servers (
    foundation character varying(64) NOT NULL,
    seen double precision NOT NULL
);
ALTER TABLE ONLY public.jobs ALTER COLUMN number SET DEFAULT nextval('public.jobs_number_seq'::regclass);
ALTER TABLE ONLY public.schema_version ALTER COLUMN version SET DEFAULT nextval('public.schema_version_version_seq'::regclass);
INSERT INTO public.deliveries VALUES ('evt_9147ced0d23a4ca2f35ba08fe3e42ff1', 'bob', 'https://example.com/hook', '{"id": "evt_9147ced0d23a4ca2f35ba08fe3e42ff1", "object": "event", "type": "video.completed", "created_at": 1796057293, "data": {"id": "video_83fe569968fd8def0fd509eb35094af9", "status": "completed"}}', 0, 1796057293.660245, 1796057293.660245, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_1694e63248ab970719a6efc81aec21f0', 'bob', 'https://example.com/hook', '{"id": "evt_1694e63248ab970719a6efc81aec21f0", "object": "event", "type": "video.failed", "created_at": 1796057293, "data": {"id": "video_9cbbd0cdb7535ba778f24ba2c802156c", "status": "failed"}}', 0, 1796057293.800441, 1796057293.800441, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_3c9ae1c7081be61eb256a869c8459eab', 'bob', 'https://example.com/hook', '{"id": "evt_3c9ae1c7081be61eb256a869c8459eab", "object": "event", "type": "video.cancelled", "created_at": 1796057293, "data": {"id": "video_13af00437baee1249bfbb44856410eda", "status": "cancelled"}}', 0, 1796057293.8324935, 1796057293.8324935, NULL, NULL);
INSERT INTO public.flows VALUES ('bob', 1, 6);
INSERT INTO public.jobs VALUES (1, 'video_687da95303fecb695f1e5dad9eea0593', 'alice', 'completed', NULL, 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 100, 0, NULL, NULL, 1796057293.440071, 1796057293.5159338, 1796057293.555321, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_687da95303fecb695f1e5dad9eea0593.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (2, 'video_83fe569968fd8def0fd509eb35094af9', 'bob', 'completed', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 100, 0, NULL, NULL, 1796057293.5759778, 1796057293.6164584, 1796057293.639932, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_83fe569968fd8def0fd509eb35094af9.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, 'key-completed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (4, 'video_9cbbd0cdb7535ba778f24ba2c802156c', 'bob', 'failed', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 50, 0, NULL, NULL, 1796057293.740032, 1796057293.7804172, 1796057293.7962801, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, 'key-failed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (3, 'video_385a60ca148d06f503408ded89c1f956', 'alice', 'failed', NULL, 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, NULL, NULL, 1796057293.6724684, 1796057293.7083921, 1796057293.7213771, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (5, 'video_4cc81e7363b64c78bc9d4ff742166c77', 'alice', 'cancelled', NULL, 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057293.8042321, NULL, 1796057293.8088722, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (6, 'video_13af00437baee1249bfbb44856410eda', 'bob', 'cancelled', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 0, 0, NULL, NULL, 1796057293.8209152, NULL, 1796057293.8278759, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-cancelled', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (7, 'video_52f758422abd2cfcd955b61c6108fbf1', 'alice', 'in_progress', NULL, 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, 'host-1', 1796060893.852482, 1796057293.8361251, 1796057293.8679519, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (8, 'video_e961d7a430e8202953160a08f4a3305e', 'bob', 'in_progress', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 50, 0, 'host-1', 1796060893.900393, 1796057293.880503, 1796057293.9200704, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-in_progress', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (9, 'video_bbe1246a314c62aa3298c4a52f379e94', 'alice', 'queued', NULL, 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057293.9399233, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (10, 'video_6ac0c9b7347dfa63c778be539e2afbea', 'bob', 'queued', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 0, 0, NULL, NULL, 1796057293.944789, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-queued', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.pins VALUES ('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'temporal', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'orbit', 1, true, 1);
INSERT INTO public.rates VALUES ('alice', 1700000000.5);
INSERT INTO public.schema_version VALUES (5);
INSERT INTO public.servers VALUES ('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 1700000000.5);
SELECT pg_catalog.setval('public.jobs_number_seq', 10, true);
SELECT pg_catalog.setval('public.schema_version_version_seq', 1, false);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.flows
    ADD CONSTRAINT flows_pkey PRIMARY KEY (tenant, weight);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_id_key UNIQUE (id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_tenant_idempotency_key_key UNIQUE (tenant, idempotency_key);
ALTER TABLE ONLY public.pins
    ADD CONSTRAINT pins_pkey PRIMARY KEY (foundation, path, sha256);
ALTER TABLE ONLY public.rates
    ADD CONSTRAINT rates_pkey PRIMARY KEY (tenant);
ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.servers
    ADD CONSTRAINT servers_pkey PRIMARY KEY (foundation);
CREATE INDEX ix_deliveries_next_at ON public.deliveries USING btree (next_at);
CREATE INDEX ix_jobs_expires_at ON public.jobs USING btree (expires_at);
CREATE INDEX ix_jobs_owner ON public.jobs USING btree (owner);
CREATE INDEX ix_jobs_state ON public.jobs USING btree (state);
CREATE INDEX ix_jobs_tenant ON public.jobs USING btree (tenant);

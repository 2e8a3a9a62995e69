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
CREATE TABLE public.jobs (
    number integer NOT NULL,
    id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    state character varying(16) NOT NULL,
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
ALTER TABLE ONLY public.jobs ALTER COLUMN number SET DEFAULT nextval('public.jobs_number_seq'::regclass);
ALTER TABLE ONLY public.schema_version ALTER COLUMN version SET DEFAULT nextval('public.schema_version_version_seq'::regclass);
INSERT INTO public.deliveries VALUES ('evt_274fbbc4715839856233a4cd2c723d8a', 'bob', 'https://example.com/hook', '{"id": "evt_274fbbc4715839856233a4cd2c723d8a", "object": "event", "type": "video.completed", "created_at": 1796057237, "data": {"id": "video_2619d833496b495e66167f7654d1c88a", "status": "completed"}}', 0, 1796057237.4084406, 1796057237.4084406, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_270096a7f07fe35a6d0b063e856aa4a3', 'bob', 'https://example.com/hook', '{"id": "evt_270096a7f07fe35a6d0b063e856aa4a3", "object": "event", "type": "video.failed", "created_at": 1796057237, "data": {"id": "video_7011ca0280f574a94d363354104f116e", "status": "failed"}}', 0, 1796057237.5159595, 1796057237.5159595, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_7f660c022714b96b4d0c0499b1232e9e', 'bob', 'https://example.com/hook', '{"id": "evt_7f660c022714b96b4d0c0499b1232e9e", "object": "event", "type": "video.cancelled", "created_at": 1796057237, "data": {"id": "video_7dcb5e33123cb538c73870bd5f126c9c", "status": "cancelled"}}', 0, 1796057237.5446813, 1796057237.5446813, NULL, NULL);
INSERT INTO public.jobs VALUES (1, 'video_f48bcec7aebe5bdbd5276d30af828485', 'alice', 'completed', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 100, 0, NULL, NULL, 1796057237.2680612, 1796057237.3202477, 1796057237.347951, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_f48bcec7aebe5bdbd5276d30af828485.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (5, 'video_ce55eafe9b4464b05b66322c3c74200d', 'alice', 'cancelled', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057237.516858, NULL, 1796057237.5246913, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (2, 'video_2619d833496b495e66167f7654d1c88a', 'bob', 'completed', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 100, 0, NULL, NULL, 1796057237.361812, 1796057237.3879392, 1796057237.4009707, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_2619d833496b495e66167f7654d1c88a.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, 'key-completed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (3, 'video_4ad1fcc3efd96b8f3bcf210c0562efaf', 'alice', 'failed', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, NULL, NULL, 1796057237.4162915, 1796057237.4520772, 1796057237.462285, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (4, 'video_7011ca0280f574a94d363354104f116e', 'bob', 'failed', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 50, 0, NULL, NULL, 1796057237.4760177, 1796057237.500038, 1796057237.5087552, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, 'key-failed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (6, 'video_7dcb5e33123cb538c73870bd5f126c9c', 'bob', 'cancelled', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057237.5326006, NULL, 1796057237.5405805, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-cancelled', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (7, 'video_1eed594aaea35e21468dee3226c011d0', 'alice', 'in_progress', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, 'host-1', 1796060837.568723, 1796057237.5520551, 1796057237.5694854, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (8, 'video_2c4aaa0591cd1bddab65f79966d55e87', 'bob', 'in_progress', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 50, 0, 'host-1', 1796060837.600685, 1796057237.5840437, 1796057237.6039805, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-in_progress', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (9, 'video_8b2fc6408c974ce6912a5cbc3f185473', 'alice', 'queued', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057237.6198804, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (10, 'video_6d03b065158488ffe424994db6f73cf0', 'bob', 'queued', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057237.6239738, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-queued', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.pins VALUES ('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'temporal', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'orbit', 1, true, 1);
INSERT INTO public.rates VALUES ('alice', 1700000000.5);
INSERT INTO public.schema_version VALUES (3);
SELECT pg_catalog.setval('public.jobs_number_seq', 10, true);
SELECT pg_catalog.setval('public.schema_version_version_seq', 1, false);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (id);
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
CREATE INDEX ix_deliveries_next_at ON public.deliveries USING btree (next_at);
CREATE INDEX ix_jobs_expires_at ON public.jobs USING btree (expires_at);
CREATE INDEX ix_jobs_owner ON public.jobs USING btree (owner);
CREATE INDEX ix_jobs_state ON public.jobs USING btree (state);
CREATE INDEX ix_jobs_tenant ON public.jobs USING btree (tenant);

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
INSERT INTO public.deliveries VALUES ('evt_36abc9ba54636ca1a94693fff05880ad', 'bob', 'https://example.com/hook', '{"id": "evt_36abc9ba54636ca1a94693fff05880ad", "object": "event", "type": "video.completed", "created_at": 1796057228, "data": {"id": "video_44a1994760fda9c937d72464a7850538", "status": "completed"}}', 0, 1796057228.3285499, 1796057228.3285499, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_aea5aaaac38e7e2a0d21e3ed09694473', 'bob', 'https://example.com/hook', '{"id": "evt_aea5aaaac38e7e2a0d21e3ed09694473", "object": "event", "type": "video.failed", "created_at": 1796057228, "data": {"id": "video_71f229bd35ae8b5d7f4d98ec57a1760c", "status": "failed"}}', 0, 1796057228.4484508, 1796057228.4484508, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_48a89189803767acf54947d82afaae9c', 'bob', 'https://example.com/hook', '{"id": "evt_48a89189803767acf54947d82afaae9c", "object": "event", "type": "video.cancelled", "created_at": 1796057228, "data": {"id": "video_d689b88a4132b1613e9a81ad501423c7", "status": "cancelled"}}', 0, 1796057228.5004733, 1796057228.5004733, NULL, NULL);
INSERT INTO public.jobs VALUES (1, 'video_f6ab602ac4652278030750d4171d907e', 'alice', 'completed', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 100, 0, NULL, NULL, 1796057228.144724, 1796057228.2241697, 1796057228.2519631, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_f6ab602ac4652278030750d4171d907e.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (5, 'video_89307470ba75b907202dba6f1f0f15de', 'alice', 'cancelled', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057228.4566023, NULL, 1796057228.46519, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (2, 'video_44a1994760fda9c937d72464a7850538', 'bob', 'completed', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 100, 0, NULL, NULL, 1796057228.2719784, 1796057228.2959595, 1796057228.3209221, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_44a1994760fda9c937d72464a7850538.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, 'key-completed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (3, 'video_c539cac5f05420f236c2196ae0c24307', 'alice', 'failed', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, NULL, NULL, 1796057228.336381, 1796057228.3600895, 1796057228.3893936, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (4, 'video_71f229bd35ae8b5d7f4d98ec57a1760c', 'bob', 'failed', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 50, 0, NULL, NULL, 1796057228.403896, 1796057228.423935, 1796057228.4414132, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, 'key-failed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (6, 'video_d689b88a4132b1613e9a81ad501423c7', 'bob', 'cancelled', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057228.483947, NULL, 1796057228.4925601, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-cancelled', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (7, 'video_00b31c6c66a036a0535511d6ed33f05b', 'alice', 'in_progress', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, 'host-1', 1796060828.52476, 1796057228.5079253, 1796057228.5256023, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (8, 'video_8b4c5e8bf04901cb77761e27136ef68a', 'bob', 'in_progress', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 50, 0, 'host-1', 1796060828.560764, 1796057228.5406208, 1796057228.564169, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-in_progress', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (9, 'video_d69352e955e4aa8af4336d7c0859eede', 'alice', 'queued', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057228.5808618, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (10, 'video_01c5b808c46f68c9f330fa56c4963dd3', 'bob', 'queued', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057228.5914547, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-queued', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.rates VALUES ('alice', 1700000000.5);
INSERT INTO public.schema_version VALUES (2);
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
ALTER TABLE ONLY public.rates
    ADD CONSTRAINT rates_pkey PRIMARY KEY (tenant);
ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);
CREATE INDEX ix_deliveries_next_at ON public.deliveries USING btree (next_at);
CREATE INDEX ix_jobs_expires_at ON public.jobs USING btree (expires_at);
CREATE INDEX ix_jobs_owner ON public.jobs USING btree (owner);
CREATE INDEX ix_jobs_state ON public.jobs USING btree (state);
CREATE INDEX ix_jobs_tenant ON public.jobs USING btree (tenant);
